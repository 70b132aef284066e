//! A private Postgres cluster, with fsync on.

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio_postgres::NoTls;

use super::{Folder, free_port};
use crate::time::Clock;

/// How long a server may take to start or end; only a broken one lets it pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// A private server on a loopback port, of the role `onward` without a password.
///
/// It is killed when the value is dropped, and when this process ends, however it ends.
#[derive(Debug)]
pub struct Postgres {
    folder: Folder,
    port: u16,
    options: Vec<String>,
    /// A shell that waits for the end of its input, which is the end of this process, and kills what is left then.
    guard: Child,
}

/// The newest server that is installed.
fn program(name: &str) -> PathBuf {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin").join(name))))
        .collect();
    versions.sort();
    versions.pop().map_or_else(|| name.into(), |(_, path)| path)
}

/// Whom the server runs as where this process is root, which a server refuses: user and group.
fn servant() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    let of = |name: &str| {
        let mut fields = users.lines().find(|line| line.starts_with(&format!("{name}:")))?.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    of("postgres").or_else(|| of("nobody"))
}

/// Gives a file or folder to whom the server runs as.
fn give(path: &Path) {
    if let Some((user, group)) = servant() {
        chown(path, Some(user), Some(group)).expect("root may");
    }
}

fn own_folder() -> Folder {
    let folder = Folder::new("postgres");
    give(folder.path());
    folder
}

fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    if let Some((user, group)) = servant() {
        command.uid(user).gid(group);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Postgres {
    /// The server that all tests of this process share, each with a schema or a database of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a server of its own.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server that speaks TLS with a certificate and its key, both as PEM.
    pub fn start_with_tls(certificate: &str, key: &str) -> Self {
        let folder = own_folder();
        let files = [("server.crt", certificate), ("server.key", key)].map(|(name, text)| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("the folder is ours");
            // A key that others may read is refused.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("the file is ours");
            give(&path);
            path.display().to_string()
        });
        let [certificate, key] = files;
        Self::start_in(folder, &["ssl=on", &format!("ssl_cert_file={certificate}"), &format!("ssl_key_file={key}")])
    }

    /// Starts a server with settings, such as `max_connections=10`.
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_in(own_folder(), options)
    }

    fn start_in(folder: Folder, options: &[&str]) -> Self {
        let data = folder.path().join("data");
        let made = command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=onward", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .current_dir(folder.path())
            .status();
        assert!(made.expect("initdb is installed").success(), "initdb fails");
        let guard = Command::new("sh")
            .args(["-c", "read -r _; kill -9 $(head -n 1 \"$0/data/postmaster.pid\"); rm -rf \"$0\""])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { folder, port: free_port(), options, guard };
        // Another process may take the port before the server does.
        for _ in 0..10 {
            if server.run() {
                return server;
            }
            server.port = free_port();
        }
        panic!("postgres does not start");
    }

    /// Starts the server and waits until it takes connections; `false`: it ended.
    fn run(&self) -> bool {
        let mut options = vec![format!("port={}", self.port)];
        options.extend(["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200"].map(str::to_owned));
        options.extend(self.options.iter().cloned());
        let started = command("pg_ctl")
            .args(["start", "--wait", "--timeout=60", "-D"])
            .arg(self.folder.path().join("data"))
            .arg("-l")
            .arg(self.folder.path().join("log"))
            .arg("-o")
            .arg(options.iter().map(|option| format!("-c {option}")).collect::<Vec<_>>().join(" "))
            .current_dir(self.folder.path())
            .status();
        started.expect("pg_ctl is installed").success()
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the folder of its files.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Returns the URL of its first database.
    pub fn url(&self) -> String {
        url(self.port, "postgres")
    }

    /// Runs statements in a database of a URL.
    pub async fn run_at(url: &str, sql: &str) {
        Self::ask_at(url, sql).await;
    }

    /// Runs statements in a database of a URL, and returns the rows as texts.
    pub async fn ask_at(url: &str, sql: &str) -> Vec<Vec<Option<String>>> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the server answers");
        tokio::spawn(connection);
        let messages = client.simple_query(sql).await.expect("the statement is good");
        let rows = messages.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()),
            _ => None,
        });
        rows.collect()
    }

    /// Makes an empty schema, and returns the URL of a place whose tables are in it.
    pub async fn schema(&self) -> String {
        let name = fresh();
        Self::run_at(&self.url(), &format!("CREATE SCHEMA {name}")).await;
        format!("{}?options=-csearch_path%3D{name}", self.url())
    }

    /// Makes an empty database, and returns its URL.
    pub async fn database(&self) -> String {
        let name = fresh();
        Self::run_at(&self.url(), &format!("CREATE DATABASE {name}")).await;
        url(self.port, &name)
    }

    /// Makes a role that lacks some rights to the tables of a schema and has all others, and returns the URL of its place.
    ///
    /// `less` is what it lacks, such as `UPDATE, DELETE ON onward_entries`.
    pub async fn role_at(url: &str, less: &str) -> String {
        let schema = url.rsplit("%3D").next().unwrap_or_default();
        let role = format!("app_{schema}");
        let grants = format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role};
             GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role}; REVOKE {less} FROM {role}; GRANT pg_monitor TO {role};
             GRANT EXECUTE ON FUNCTION pg_control_system(), pg_walfile_name(pg_lsn), pg_current_wal_lsn() TO {role}"
        );
        Self::run_at(url, &grants).await;
        url.replace("onward@", &format!("{role}@"))
    }

    /// Kills the server and all its processes at once, as the loss of its machine does.
    pub fn kill(&self) {
        let family = self.family();
        for pid in &family {
            send(*pid, Signal::KILL);
        }
        let patience = Clock::system().now() + PATIENCE;
        while family.iter().any(|pid| is_alive(*pid)) {
            assert!(Clock::system().now() < patience, "postgres does not die");
            std::thread::yield_now();
        }
    }

    /// Starts it again on the same port after [`Postgres::kill`].
    pub fn revive(&self) {
        let patience = Clock::system().now() + PATIENCE;
        while !self.run() {
            assert!(Clock::system().now() < patience, "postgres does not start again");
        }
    }

    /// Lets the server and all its processes stand still: connections stay and nothing is answered.
    pub fn pause(&self) {
        self.family().into_iter().for_each(|pid| send(pid, Signal::STOP));
    }

    /// Lets a paused server go on.
    pub fn go_on(&self) {
        self.family().into_iter().for_each(|pid| send(pid, Signal::CONT));
    }

    /// The postmaster, first, and its processes.
    fn family(&self) -> Vec<i32> {
        let file = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).unwrap_or_default();
        let Some(first) = file.lines().next().and_then(|line| line.parse::<i32>().ok()) else { return Vec::new() };
        let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap_or_default();
        std::iter::once(first).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }
}

/// A private `pgbouncer` in transaction mode before a server; dropping it kills it.
#[derive(Debug)]
pub struct Pooler {
    _folder: Folder,
    port: u16,
    child: Child,
}

impl Pooler {
    /// Starts one with few connections to the server, so that clients meet each other's sessions.
    pub fn before(server: &Postgres) -> Self {
        let folder = Folder::new("pgbouncer");
        give(folder.path());
        let port = free_port();
        let settings = format!(
            "[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\nignore_startup_parameters = extra_float_digits\n\
             [databases]\n* = host=127.0.0.1 port={} user=onward\n",
            server.port()
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).expect("the folder is ours");
        let mut pooler = Command::new("pgbouncer");
        if let Some((user, group)) = servant() {
            pooler.uid(user).gid(group);
        }
        pooler.arg("-q").arg(&file).current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = pooler.spawn().expect("pgbouncer is installed");
        let patience = Clock::system().now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Clock::system().now() < patience, "pgbouncer does not answer");
            std::thread::yield_now();
        }
        Self { _folder: folder, port, child }
    }

    /// Returns the URL of a database of the server behind it.
    pub fn url(&self, database: &str) -> String {
        url(self.port, database)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
        if let Some(mut input) = self.guard.stdin.take() {
            let _ = input.write_all(b"\n");
        }
        let _ = self.guard.wait();
    }
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://onward@127.0.0.1:{port}/{database}")
}

fn fresh() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("t{}", COUNT.fetch_add(1, Ordering::SeqCst))
}

fn send(pid: i32, signal: Signal) {
    // One that has just ended needs no signal.
    let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, signal));
}

/// Whether a process runs; one that only waits to be reaped does not.
fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}
