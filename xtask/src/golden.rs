//! Golden values: the scripts of `xtask/golden` say in their headers how they are called; this calls them so.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// What the scripts import. What a header pins with `--with` is installed on top.
const PACKAGES: [&str; 15] = [
    "bm25s",
    "PyStemmer",
    "gguf",
    "ir_measures",
    "numpy",
    "peft",
    "pytrec_eval-terrier",
    "regex",
    "scipy",
    "sentence-transformers",
    "tensorboard",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
];

/// One command of a header.
#[derive(Debug, Clone, PartialEq)]
struct Recipe {
    /// The script's name without its ending.
    name: String,
    /// Arguments of `python`, the script first, by its path from the root.
    arguments: Vec<String>,
    /// The file that its output goes to.
    output: Option<String>,
    /// Packages that the header pins.
    pinned: Vec<String>,
}

/// Prints all commands.
pub fn list(root: &Path) -> Result<()> {
    for recipe in recipes(root)? {
        println!("{recipe}{}", if recipe.placeholders().is_empty() { "" } else { "    # with its placeholders given" });
    }
    println!("\n`cargo xtask golden run` runs them in .venv; placeholders are given as NAME=VALUE.");
    Ok(())
}

/// Runs the commands of the scripts named, all of them where none is. A command whose placeholders are not given is
/// skipped with a line.
pub fn run(root: &Path, arguments: &[&str]) -> Result<()> {
    let (values, names): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|word| word.contains('='));
    let values: Vec<(&str, &str)> = values.iter().filter_map(|word| word.split_once('=')).collect();
    let all = recipes(root)?;
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|recipe| recipe.name == **name)) {
        bail!("there is no script {unknown}.py with a command in its header in xtask/golden");
    }
    let wanted: Vec<Recipe> = all
        .into_iter()
        .filter(|r| names.is_empty() || names.contains(&r.name.as_str()))
        .map(|r| r.filled(&values))
        .collect();
    let python = environment(root, wanted.iter().flat_map(|recipe| &recipe.pinned))?;
    for recipe in wanted {
        let open = recipe.placeholders();
        if !open.is_empty() {
            println!("skipped: {recipe} (give {}=…)", open.join("=…, "));
            continue;
        }
        println!("{recipe}");
        let mut command = Command::new(&python);
        command.args(&recipe.arguments).current_dir(root);
        match &recipe.output {
            None => crate::run(&mut command)?,
            Some(path) => {
                // The old file stays until the new one is complete.
                let output = command.stderr(std::process::Stdio::inherit()).output().context("cannot start python")?;
                if !output.status.success() {
                    bail!("`{recipe}` ended with {}; {path} is as it was", output.status);
                }
                std::fs::write(root.join(path), output.stdout).with_context(|| format!("cannot write {path}"))?;
            }
        }
    }
    Ok(())
}

/// The interpreter of `.venv`, which is made where it is missing.
fn environment<'a>(root: &Path, pinned: impl Iterator<Item = &'a String>) -> Result<PathBuf> {
    let python = root.join(".venv/bin/python");
    if !python.exists() {
        crate::run(Command::new("python3").args(["-m", "venv", ".venv"]).current_dir(root))?;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    crate::run(Command::new(&python).args(pip).args(PACKAGES).args(pinned).current_dir(root))?;
    Ok(python)
}

/// All commands of all headers, by name.
fn recipes(root: &Path) -> Result<Vec<Recipe>> {
    let folder = root.join("xtask/golden");
    let mut scripts = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "py") {
            scripts.push(path);
        }
    }
    scripts.sort();
    let mut found = Vec::new();
    for path in scripts {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        found.extend(header(&text).lines().filter_map(|line| Recipe::parse(&name, line)));
    }
    Ok(found)
}

/// The first docstring.
fn header(script: &str) -> &str {
    script.split("\"\"\"").nth(1).unwrap_or_default()
}

impl Recipe {
    /// Reads an indented line such as `    python measures.py > FILE   # what it is`. None where it is no call of the
    /// script.
    fn parse(name: &str, line: &str) -> Option<Self> {
        let command = line.strip_prefix("    ")?.split(" # ").next()?;
        let mut words = command.split_whitespace().peekable();
        let mut pinned = Vec::new();
        match words.next()? {
            "python" | "python3" => {}
            "uv" if words.next() == Some("run") => {
                while words.next_if_eq(&"--with").is_some() {
                    pinned.push(words.next()?.to_owned());
                }
            }
            _ => return None,
        }
        let script = format!("{name}.py");
        words.next().filter(|word| word.rsplit('/').next() == Some(script.as_str()))?;
        let mut arguments = vec![format!("xtask/golden/{script}")];
        arguments.extend(words.by_ref().take_while(|word| *word != ">").map(str::to_owned));
        Some(Self { name: name.to_owned(), arguments, output: words.next().map(str::to_owned), pinned })
    }

    /// The words in capitals that stand for something: `HF_DIR`, `MODEL.gguf`.
    fn placeholders(&self) -> Vec<&str> {
        let capital = |word: &str| {
            let stem = word.split('.').next().unwrap_or_default();
            stem.len() > 1 && stem.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        };
        self.arguments.iter().chain(&self.output).map(String::as_str).filter(|word| capital(word)).collect()
    }

    /// With the values of placeholders put in.
    fn filled(mut self, values: &[(&str, &str)]) -> Self {
        for word in self.arguments.iter_mut().chain(&mut self.output) {
            if let Some((_, value)) = values.iter().find(|(name, _)| name == word) {
                *word = (*value).to_owned();
            }
        }
        self
    }
}

impl std::fmt::Display for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "python {}", self.arguments.join(" "))?;
        self.output.as_ref().map_or(Ok(()), |path| write!(f, " > {path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_out_of_a_header() {
        let script = "#!x\n\"\"\"Values.\n\n    pip install a b\n    python m.py tiny out   # both\n\
                      \n    uv run --with a==1 --with b xtask/golden/m.py > t.json\n    python m.py big HF_DIR X.json\n\"\"\"\n";
        let got: Vec<Recipe> = header(script).lines().filter_map(|line| Recipe::parse("m", line)).collect();
        let shown: Vec<String> = got.iter().map(ToString::to_string).collect();
        let path = "python xtask/golden/m.py";
        assert_eq!(
            shown,
            [format!("{path} tiny out"), format!("{path} > t.json"), format!("{path} big HF_DIR X.json")]
        );
        assert_eq!(got[1].pinned, ["a==1", "b"]);
        assert!(got[0].placeholders().is_empty() && got[1].placeholders().is_empty());
        assert_eq!(got[2].placeholders(), ["HF_DIR"]);
        assert!(got[2].clone().filled(&[("HF_DIR", "/models/x")]).placeholders().is_empty());
    }

    #[test]
    fn every_script_of_the_project_has_a_command_in_its_header() {
        let root = crate::root();
        let found = recipes(&root).unwrap();
        for entry in std::fs::read_dir(root.join("xtask/golden")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "py") {
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                assert!(found.iter().any(|recipe| recipe.name == name), "{name}.py has no command in its header");
            }
        }
    }
}
