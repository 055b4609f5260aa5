//! `--grant`: what a plugin may have.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use querywright::Error;
use querywright::encode::{DenseConfig, EmbedConfig};
use querywright::plugin::{Grant, Limits, LogSink, Manifest, PluginOptions};

use crate::dense;

/// An encoder that an error names as an example.
const EXAMPLE: &str = "embed=all-minilm-l6-v2";

/// What a plugin may have, if its manifest asks for it.
#[derive(Debug, clap::Args, Clone, Default, serde::Deserialize)]
#[serde(transparent)]
pub struct Grants {
    /// Let the plugin have something that its manifest asks for: log (to standard error), embed=MODEL (a sentence encoder,
    /// as for dense:MODEL), http=HOST, artifact=NAME=FILE, or a limit, as limits.memory_mib=1024; may be given again
    #[arg(long = "grant", value_name = "WHAT")]
    grants: Vec<String>,
}

impl Grants {
    /// Refuses grants where there is no plugin that could have them.
    pub fn nobody(&self) -> Result<()> {
        match self.grants.first() {
            None => Ok(()),
            Some(text) => {
                let remedy = "leave it out, or give a plugin's .wasm file as the retriever";
                Err(Error::argument(format!("--grant {text}"), "bm25 is no plugin", remedy).into())
            }
        }
    }

    /// The encoder that is lent; none where there is none among the grants.
    pub fn embed(&self) -> Result<Option<EmbedConfig>> {
        let mut lent = self.grants.iter().filter(|text| is_embed(text));
        match (lent.next(), lent.next()) {
            (None, _) => Ok(None),
            (Some(text), None) => encoder_of(text).map(Some),
            (Some(_), Some(second)) => {
                let found = "an encoder is lent already";
                Err(Error::argument(format!("--grant {second}"), found, "leave one of the two out").into())
            }
        }
    }

    /// The options of a plugin with these grants. The encoder is opened.
    pub fn options(&self) -> Result<PluginOptions> {
        let mut options = PluginOptions::default();
        let mut limits = String::new();
        for text in self.grants.iter().filter(|text| !is_embed(text)) {
            let bad = |found: String| {
                let remedy = "give log, embed=MODEL, http=HOST, artifact=NAME=FILE, or limits.KEY=NUMBER";
                Error::argument(format!("--grant {text}"), found, remedy)
            };
            match text.split_once('=') {
                None if text == "log" => {
                    options.grant.log = true;
                    options.services.log = Some(log());
                }
                Some(("http", host)) => {
                    options.grant.http.insert(host.to_owned());
                }
                Some(("artifact", named)) => {
                    let (name, path) = named.split_once('=').ok_or_else(|| bad("it names no file".into()))?;
                    let bytes = std::fs::read(path).map_err(|e| Error::read(Path::new(path), e))?;
                    options.grant.artifact.insert(name.to_owned());
                    options.services.artifacts.insert(name.to_owned(), bytes.into());
                }
                Some((key, number)) if key.starts_with("limits.") && number.parse::<u64>().is_ok() => {
                    limits.push_str(&format!("{} = {number}\n", key.trim_start_matches("limits.")));
                }
                _ => return Err(bad("this cannot be granted".into()).into()),
            }
        }
        options.grant.limits = toml::from_str::<Limits>(&limits)
            .map_err(|e| Error::argument("--grant", e.message().to_owned(), "name a limit that there is, and once"))?;
        options.grant.limits.validate()?;
        self.embed()?.map_or(Ok(()), |encoder| lend(&mut options, &encoder))?;
        Ok(options)
    }
}

/// Lends a plugin an encoder. What the encoder says about a failure goes to standard error, granted or not: the plugin
/// reads a fixed sentence.
pub fn lend(options: &mut PluginOptions, config: &EmbedConfig) -> Result<()> {
    options.services.encoder = Some(Arc::new(dense::encoder(&config.model, &config.encoder)?));
    options.services.log.get_or_insert_with(log);
    options.grant.embed = true;
    Ok(())
}

fn log() -> LogSink {
    Arc::new(|id, level, line| tell!("{id} {level:?}: {line}"))
}

fn is_embed(text: &str) -> bool {
    text.split_once('=').map_or(text, |(key, _)| key) == "embed"
}

/// The encoder of `embed=MODEL`, with settings behind it as behind `dense:MODEL`.
fn encoder_of(text: &str) -> Result<EmbedConfig> {
    let bad = |found: &str| {
        let remedy =
            format!("name a model of dense retrieval or its folder, as {EXAMPLE}, with settings behind a comma");
        Error::argument(format!("--grant {text}"), found, remedy)
    };
    let model = text.split_once('=').map_or("", |(_, model)| model);
    if model.is_empty() {
        return Err(bad("it names no encoder").into());
    }
    let read = dense::named(&format!("dense:{model}")).map_err(|error| match error.downcast::<Error>() {
        Ok(Error::Argument { name, found, remedy, .. }) => {
            let key = name.trim_start_matches("--retriever").trim_start_matches(" dense:");
            let name = if key.is_empty() { format!("--grant {text}") } else { format!("--grant embed: {key}") };
            Error::argument(name, found, remedy).into()
        }
        Ok(other) => other.into(),
        Err(other) => other,
    })?;
    match read {
        // Without a name the settings would be those of an encoder that nobody asked for.
        Some(DenseConfig { model: read, encoder, .. }) if model.starts_with(&read) => {
            Ok(EmbedConfig { model: read, encoder })
        }
        _ => Err(bad("it names no encoder").into()),
    }
}

/// Tells of grants that have no effect, because the manifest does not ask for them.
pub fn warn(grant: &Grant, manifest: Option<&Manifest>) {
    for unused in unused(grant, manifest) {
        tell!("warning: granted {unused}, and the plugin.toml beside the component does not ask for it");
    }
    if lacks_encoder(grant, manifest) {
        tell!("the plugin asks for a text encoder, and none is lent: --grant {EXAMPLE}, or another one");
    }
}

fn lacks_encoder(grant: &Grant, manifest: Option<&Manifest>) -> bool {
    !grant.embed && manifest.is_some_and(|manifest| manifest.capabilities.embed)
}

fn unused(grant: &Grant, manifest: Option<&Manifest>) -> Vec<String> {
    let none = querywright::plugin::Wanted::default();
    let wanted = manifest.map_or(&none, |manifest| &manifest.capabilities);
    let flags = [(grant.log && !wanted.log, "log"), (grant.embed && !wanted.embed, "embed")];
    let flags = flags.into_iter().filter(|(unused, _)| *unused).map(|(_, name)| name.to_owned());
    let http = grant.http.iter().filter(|host| !wanted.http.contains(*host)).map(|host| format!("http={host}"));
    let artifact = grant.artifact.iter().filter(|name| !wanted.artifact.contains(*name));
    flags.chain(http).chain(artifact.map(|name| format!("artifact={name}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(list: &[&str]) -> Result<PluginOptions, String> {
        Grants { grants: list.iter().map(|&text| text.into()).collect() }.options().map_err(|e| e.to_string())
    }

    #[test]
    fn grants_are_read_and_what_cannot_be_granted_is_refused_with_what_can() {
        let options = granted(&["log", "http=api.example.com", "limits.memory_mib=1024", "limits.call_ms=9"]).unwrap();
        assert!(options.grant.log && options.grant.http.contains("api.example.com"));
        assert_eq!((options.grant.limits.memory_mib, options.grant.limits.call_ms), (1024, 9));
        assert_eq!(granted(&[]).unwrap().grant, Default::default());
        assert!(Grants::default().nobody().is_ok());
        let nobody = Grants { grants: vec!["log".into()] }.nobody().unwrap_err().to_string();
        assert!(nobody.contains("--grant log: bm25 is no plugin"), "{nobody}");
        for (list, part) in [
            (vec!["everything"], "limits.KEY=NUMBER"),
            (vec!["artifact=weights"], "names no file"),
            (vec!["embed"], "--grant embed: it names no encoder; name a model"),
            (vec!["embed="], "as embed=all-minilm-l6-v2"),
            (vec!["embed=pooling=cls"], "it names no encoder"),
            (vec!["embed=/nowhere/at/all"], "/nowhere/at/all"),
            (vec!["embed=minilm,pooling=median"], "--grant embed: pooling"),
            (vec!["embed=minilm", "embed=other"], "--grant embed=other: an encoder is lent already"),
            (vec!["embedding=minilm"], "cannot be granted"),
            (vec!["artifact=weights=/nowhere/at/all"], "cannot read /nowhere/at/all"),
            (vec!["limits.memory=1"], "memory_mib"),
            (vec!["limits.call_ms=soon"], "cannot be granted"),
            (vec!["limits.call_ms=0"], "limits.call_ms: found 0"),
        ] {
            let error = granted(&list).map(|_| ()).unwrap_err();
            assert!(error.contains(part), "{list:?}: {error}");
        }
    }

    #[test]
    fn an_encoder_is_lent_with_the_settings_of_dense_retrieval() {
        let folder = querywright_testing::golden("tiny-bert").display().to_string();
        let text = format!("embed={folder},query_prefix=find: ,max_tokens=9");
        let grants = Grants { grants: vec![text, "limits.call_ms=9".into()] };
        let lent = grants.embed().unwrap().unwrap();
        assert_eq!((lent.model, lent.encoder.query_prefix.as_deref()), (folder, Some("find: ")));
        let options = grants.options().unwrap();
        assert!(options.grant.embed && !options.grant.log && options.grant.limits.call_ms == 9);
        let encoder = options.services.encoder.unwrap();
        assert!(encoder.dimensions() > 0 && encoder.digest().is_some());
        assert!(options.services.log.is_some(), "where the encoder's failures are told");
        assert!(Grants::default().embed().unwrap().is_none());
    }

    #[test]
    fn a_plugin_that_asks_for_an_encoder_and_has_none_is_told_of() {
        let asks = |what: &str| {
            let text = format!("id = \"x\"\nversion = \"1.0.0\"\nsha256 = \"{}\"\n{what}", "0".repeat(64));
            Manifest::parse(&text, "plugin.toml").unwrap()
        };
        let (embeds, plain) = (asks("[capabilities]\nembed = true"), asks(""));
        let lent = Grant { embed: true, ..Grant::default() };
        let lacks = |grant: &Grant| [None, Some(&plain), Some(&embeds)].map(|manifest| lacks_encoder(grant, manifest));
        assert_eq!((lacks(&Grant::default()), lacks(&lent)), ([false, false, true], [false; 3]));
        assert_eq!((unused(&lent, Some(&plain)), unused(&lent, Some(&embeds)).len()), (vec!["embed".to_owned()], 0));
    }

    #[test]
    fn grants_that_nobody_asked_for_are_told() {
        let grant = granted(&["log", "http=a.example", "http=b.example"]).unwrap().grant;
        assert_eq!(unused(&grant, None), ["log", "http=a.example", "http=b.example"]);
        let digest = "0".repeat(64);
        let text =
            format!("id = \"x\"\nversion = \"1.0.0\"\nsha256 = \"{digest}\"\n[capabilities]\nhttp = [\"a.example\"]");
        let manifest = Manifest::parse(&text, "plugin.toml").unwrap();
        assert_eq!(unused(&grant, Some(&manifest)), ["log", "http=b.example"]);
        assert!(unused(&Grant::default(), Some(&manifest)).is_empty());
    }
}
