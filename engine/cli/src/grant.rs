//! `--grant`: what a plugin may have.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use querywright::Error;
use querywright::plugin::{Grant, Limits, Manifest, PluginOptions};

/// What a plugin may have, if its manifest asks for it. The command line has no encoder to lend.
#[derive(clap::Args, Clone, Default)]
pub struct Grants {
    /// Let the plugin have something that its manifest asks for: log (to standard error), http=HOST, artifact=NAME=FILE,
    /// or a limit, as limits.memory_mib=1024; may be given again
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

    /// The options of a plugin with these grants.
    pub fn options(&self) -> Result<PluginOptions> {
        let mut options = PluginOptions::default();
        let mut limits = String::new();
        for text in &self.grants {
            let bad = |found: String| {
                let remedy = "give log, http=HOST, artifact=NAME=FILE, or limits.KEY=NUMBER";
                Error::argument(format!("--grant {text}"), found, remedy)
            };
            match text.split_once('=') {
                None if text == "log" => {
                    options.grant.log = true;
                    options.services.log = Some(Arc::new(|id, level, line| tell!("{id} {level:?}: {line}")));
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
                _ if text == "embed" => {
                    let remedy = "embed the engine and give `Services::encoder`";
                    return Err(
                        Error::argument("--grant embed", "the command line has no encoder to lend", remedy).into()
                    );
                }
                _ => return Err(bad("this cannot be granted".into()).into()),
            }
        }
        options.grant.limits = toml::from_str::<Limits>(&limits)
            .map_err(|e| Error::argument("--grant", e.message().to_owned(), "name a limit that there is, and once"))?;
        options.grant.limits.validate()?;
        Ok(options)
    }
}

/// Tells of grants that have no effect, because the manifest does not ask for them.
pub fn warn(grant: &Grant, manifest: Option<&Manifest>) {
    for unused in unused(grant, manifest) {
        tell!("warning: granted {unused}, and the plugin.toml beside the component does not ask for it");
    }
}

fn unused(grant: &Grant, manifest: Option<&Manifest>) -> Vec<String> {
    let none = querywright::plugin::Wanted::default();
    let wanted = manifest.map_or(&none, |manifest| &manifest.capabilities);
    let log = (grant.log && !wanted.log).then(|| "log".to_owned());
    let http = grant.http.iter().filter(|host| !wanted.http.contains(*host)).map(|host| format!("http={host}"));
    let artifact = grant.artifact.iter().filter(|name| !wanted.artifact.contains(*name));
    log.into_iter().chain(http).chain(artifact.map(|name| format!("artifact={name}"))).collect()
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
            (vec!["embed"], "no encoder to lend"),
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
