//! A real PostgreSQL for tests, where it is installed.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server of our own, empty, that ends with the test.
pub struct Postgres {
    process: Child,
    programs: PathBuf,
    _folder: tempfile::TempDir,
    /// `postgres://USER@HOST:PORT/DATABASE`.
    pub url: String,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Postgres {
    /// Starts one. None, with the reason printed, where it is not installed.
    pub fn start() -> Option<Self> {
        let programs = programs()?;
        let folder = tempfile::tempdir().unwrap();
        // Another user writes there.
        #[cfg(unix)]
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let data = folder.path().join("data");
        let options = ["-A", "trust", "-U", "shop", "-E", "UTF8", "--locale=C", "--no-sync", "-D"];
        let made = unprivileged(&programs.join("initdb")).args(options).arg(&data).current_dir(folder.path()).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = unprivileged(&programs.join("postgres"));
        command.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k", "", "-F"]);
        let process = command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let url = format!("postgres://shop@127.0.0.1:{port}/postgres");
        let server = Self { process, programs, _folder: folder, url };
        for _ in 0..200 {
            if server.psql("SELECT 1").status.success() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("PostgreSQL did not start");
    }

    /// Runs statements.
    pub fn run(&self, sql: &str) {
        let output = self.psql(sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn psql(&self, sql: &str) -> std::process::Output {
        let psql = self.programs.join("psql");
        Command::new(psql).args(["-X", "-v", "ON_ERROR_STOP=1", "-d", &self.url, "-c", sql]).output().unwrap()
    }
}

/// Where Debian and others put the programs.
fn programs() -> Option<PathBuf> {
    let whole = |bin: &PathBuf| ["initdb", "postgres", "psql"].iter().all(|name| bin.join(name).is_file());
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|entry| entry.path().join("bin")).filter(whole).max();
    let found = found.or_else(|| Some(PathBuf::from("/usr/bin")).filter(whole));
    if found.is_none() {
        crate::skipped("PostgreSQL is not installed (Debian: apt-get install postgresql)");
    }
    found
}

/// A command as a user that PostgreSQL runs as: it refuses to be root.
fn unprivileged(program: &Path) -> Command {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}
