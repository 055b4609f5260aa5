//! `model merge`: a model with an adapter in its weights, for programs that read no adapters.

use std::path::{Path, PathBuf};

use anyhow::Result;
use querywright::Error;
use querywright::model::{Adapter, Export, ExportFormat, ExportType, Exported, ModelSource};
use querywright::rewrite::PromptConfig;
use querywright::train::checkpoint;
use serde_json::Value;

use crate::progress::Bar;
use crate::{terminal, weights};

/// Tasks of lm-evaluation-harness that the paper of Rec-R1 reports and that run no code of the model's.
const TASKS: &str = "mmlu,ifeval,gsm8k";

/// Write a model with an adapter merged into its weights.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright model merge smollm2-135m runs/demo/best --out merged
  querywright model merge ./Qwen2.5-3B-Instruct runs/mine/best --out merged --dtype bf16
  querywright model merge smollm2-135m runs/demo/best --out merged --format gguf --dtype f16")]
pub struct Args {
    /// The model that the adapter was trained on: a registry name, hf:owner/name, a GGUF file or a folder
    model: String,
    /// The adapter's folder, such as runs/mine/best
    adapter: PathBuf,
    /// Where the merged model is written: a folder that is not there yet, or an empty one
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// safetensors (a Hugging Face folder) or gguf (one file)
    #[arg(long, default_value = "safetensors")]
    format: ExportFormat,
    /// The number type of the weights: f32, f16 or bf16 [default: that of the model; f16 where it is quantised]
    #[arg(long)]
    dtype: Option<ExportType>,
    /// Merge although the adapter was trained on another model of the same shape
    #[arg(long)]
    other_base: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    // What costs nothing is refused first: a model may have to be fetched.
    Adapter::find(&args.adapter)?;
    require_free(&args.out)?;
    let source = ModelSource::open(&weights::path(&args.model, false)?)?;
    let adapter = Adapter::load(&args.adapter, source.config())?;
    require_base(&args, &source)?;
    let export = Export::new(&source, Some(&adapter), args.dtype)?;
    let size = export.bytes() as f64 / 1e6;
    tell!("writing about {size:.0} MB to {}", args.out.display());
    let bar = Bar::new(source.config().num_hidden_layers as u64, "merging", "tensors");
    let mut exported = None;
    let out = std::path::absolute(&args.out).map_err(|e| Error::write(&args.out, e))?;
    checkpoint::write_folder(&out, |folder| {
        exported = Some(export.write(folder, args.format, &bar)?);
        Ok(())
    })?;
    bar.finish();
    let Some(exported) = exported else { return Err(Error::bug("cli::merge", "nothing was written").into()) };
    let has_template = source.tokenizer().is_ok_and(|tokenizer| tokenizer.chat_template().is_some());
    let command = lm_eval(&args.out, args.format, exported.dtype, has_template);
    if args.json {
        let (path, format) = (args.out.display().to_string(), name(args.format));
        let object = serde_json::json!({
            "path": path, "format": format, "model": source.name(), "exported": exported, "lm_eval": command,
        });
        return terminal::json(&object);
    }
    told(&args.out, args.format, &exported)?;
    if args.adapter.join(PromptConfig::FILE).is_file() {
        say!(
            "its prompt is not part of it: to rewrite with it here, use --rewriter {}+{}",
            args.model,
            args.adapter.display()
        );
    }
    say!("measure it with lm-evaluation-harness:");
    say!("  {command}");
    Ok(())
}

fn told(out: &Path, format: ExportFormat, exported: &Exported) -> Result<()> {
    let Exported { dtype, bytes, changed, rounding, .. } = exported;
    let size = *bytes as f64 / 1e6;
    say!("merged: {} ({}, {dtype:?}, {size:.1} MB), {changed} tensors changed", out.display(), name(format));
    match rounding {
        Some(share) if *share > 0.0 => {
            let share = 100.0 * share;
            say!("rounding changes these tensors by {share:.1}% of what the adapter does; --dtype f32 rounds nothing");
        }
        Some(_) => {}
        None => say!("the adapter changes nothing: it is untrained"),
    }
    Ok(())
}

fn name(format: ExportFormat) -> &'static str {
    if format == ExportFormat::Gguf { "gguf" } else { "safetensors" }
}

/// Refuses a place that holds something: nothing of anybody's is replaced.
fn require_free(out: &Path) -> Result<()> {
    let refuse = |found: &str| {
        Err(Error::argument("--out", format!("{} {found}", out.display()), "give a folder that is not there yet")
            .into())
    };
    if out.is_symlink() {
        return refuse("is a link");
    }
    // What cannot be written is said before the work.
    checkpoint::require_writable(out)?;
    match std::fs::read_dir(out) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                refuse("holds files")
            } else {
                Ok(())
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => refuse("is a file"),
        Err(error) => Err(Error::read(out, error).into()),
    }
}

/// Refuses a model that the adapter was not trained on: by the digest that a run keeps, else by the names.
fn require_base(args: &Args, source: &ModelSource) -> Result<()> {
    let found = match trained_on(&args.adapter) {
        Some((_, digest)) if digest == source.digest()? => return Ok(()),
        Some((name, _)) => format!("it was trained on {name}, whose files are others than those of {}", args.model),
        None => {
            let Some(base) = base_name(&args.adapter)? else {
                tell!("warning: {} does not say which model it was trained on", args.adapter.display());
                return Ok(());
            };
            let path = source.path().display().to_string();
            if [args.model.as_str(), &source.name(), &path].into_iter().any(|own| plain(own) == plain(&base)) {
                return Ok(());
            }
            format!("its base_model_name_or_path is \"{base}\", which is not {}", args.model)
        }
    };
    if args.other_base {
        tell!("warning: {}: {found}", args.adapter.display());
        return Ok(());
    }
    let remedy = "give that model, or --other-base where the weights are known to be the same";
    Err(Error::model(&args.adapter, found, remedy).into())
}

/// The model's name and digest, where the adapter lies in the folder of a run.
fn trained_on(adapter: &Path) -> Option<(String, String)> {
    let adapter = std::fs::canonicalize(adapter).ok()?;
    let about = |folder: &Path| -> Option<(String, String)> {
        let about: Value = serde_json::from_slice(&std::fs::read(folder.join("run.json")).ok()?).ok()?;
        about.get("querywright")?;
        let text = |key: &str| Some(about.get(key)?.as_str()?.to_owned());
        Some((text("model")?, text("model_digest")?))
    };
    // runs/x/best, runs/x/checkpoints/step-00000042
    adapter.ancestors().skip(1).take(2).find_map(about)
}

/// What `adapter_config.json` says of the base.
fn base_name(adapter: &Path) -> Result<Option<String>> {
    let path = adapter.join("adapter_config.json");
    let text = std::fs::read(&path).map_err(|e| Error::read(&path, e))?;
    // It was read before, as an adapter's.
    let config: Value = serde_json::from_slice(&text).unwrap_or_default();
    let named = config.get("base_model_name_or_path").and_then(Value::as_str);
    Ok(named.filter(|name| !name.is_empty()).map(str::to_owned))
}

/// A name without what differs between a repository, a folder and a GGUF file of one model: the owner, the ending and the
/// number type.
fn plain(name: &str) -> String {
    let last = name.trim_end_matches(['/', '\\']).rsplit(['/', '\\', ':']).next().unwrap_or(name).to_lowercase();
    let stem = last.strip_suffix(".gguf").unwrap_or(&last);
    let is_type = |part: &str| {
        let digits = part.strip_prefix("iq").or_else(|| part.strip_prefix('q'));
        ["f32", "f16", "bf16"].contains(&part)
            || digits.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    match stem.rsplit_once(['.', '-']) {
        Some((before, part)) if last.ends_with(".gguf") && is_type(part) => before.to_owned(),
        _ => stem.to_owned(),
    }
}

/// The command that measures the merged model on tasks of others.
fn lm_eval(out: &Path, format: ExportFormat, dtype: ExportType, has_template: bool) -> String {
    let out = out.display();
    let dtype = match dtype {
        ExportType::F32 => "float32",
        ExportType::F16 => "float16",
        _ => "bfloat16",
    };
    let file = if format == ExportFormat::Gguf { ",gguf_file=model.gguf" } else { "" };
    let model = format!("pretrained={out}{file},dtype={dtype}");
    let quoted = model.replace('\'', r"'\''");
    let template = if has_template { " --apply_chat_template" } else { "" };
    format!("lm_eval --model hf --model_args '{quoted}' --tasks {TASKS}{template} --batch_size auto")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_known_under_the_names_of_its_repository_its_folder_and_its_file() {
        for name in [
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "./models/smollm2-135m-instruct/",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "hf:x/smollm2-135m-instruct-q4_k_m.gguf",
            "smollm2-135m-instruct-bf16.gguf",
        ] {
            assert_eq!(plain(name), "smollm2-135m-instruct", "{name}");
        }
        assert_ne!(plain("Qwen/Qwen2.5-3B"), plain("Qwen/Qwen2.5-3B-Instruct"));
        assert_eq!(plain("model-f16"), "model-f16", "a folder's name has no number type");
    }

    #[test]
    fn the_command_measures_what_was_written_as_it_was_written() {
        let command = |format, dtype| lm_eval(Path::new("a b"), format, dtype, true);
        assert_eq!(
            command(ExportFormat::Safetensors, ExportType::Bf16),
            "lm_eval --model hf --model_args 'pretrained=a b,dtype=bfloat16' --tasks mmlu,ifeval,gsm8k \
             --apply_chat_template --batch_size auto"
        );
        assert!(command(ExportFormat::Gguf, ExportType::F32).contains("gguf_file=model.gguf,dtype=float32"));
    }
}
