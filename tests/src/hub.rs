//! A hub on this machine: a server that answers as the Hugging Face Hub does, for as much as is asked of it.
//!
//! Files that end in `.safetensors` are large to it: their ETag is their SHA-256, and their address leads to another
//! host, as the real hub's does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use sha2::{Digest, Sha256};

/// The token that opens closed repositories.
pub const TOKEN: &str = "hf_test";

/// The server, until dropped.
pub struct HubServer {
    /// The hub, and the host of large files.
    addresses: [SocketAddr; 2],
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By `models/org/name` or `datasets/org/name`.
    repositories: BTreeMap<String, Repository>,
    /// New names of repositories by their old ones.
    renamed: BTreeMap<String, String>,
    log: Vec<String>,
    faults: Vec<Fault>,
    is_closed: bool,
}

#[derive(Default)]
struct Repository {
    branches: BTreeMap<String, String>,
    commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    is_gated: bool,
}

/// What goes wrong with a file.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The file's name.
    pub file: &'static str,
    /// How.
    pub kind: FaultKind,
    /// How often.
    pub times: usize,
}

/// How sending a file can go wrong.
#[derive(Debug, Clone, Copy)]
pub enum FaultKind {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// After so many bytes of the body nothing comes any more, until the client is gone.
    Stall(usize),
    /// Every byte is another.
    Damaged,
    /// A request for a part is answered with the whole.
    NoParts,
    /// The server answers this status.
    Status(u16),
}

impl HubServer {
    /// A hub without repositories.
    pub fn start() -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = [0, 1].map(|index| listeners[index].local_addr().unwrap());
        let state: Arc<Mutex<State>> = Arc::default();
        for (index, listener) in listeners.into_iter().enumerate() {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let state = Arc::clone(&state);
                    if state.lock().unwrap().is_closed {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    thread::spawn(move || answer(stream, index == 1, &state, addresses[1]));
                }
            });
        }
        Self { addresses, state }
    }

    /// `HF_ENDPOINT`.
    pub fn address(&self) -> String {
        format!("http://{}", self.addresses[0])
    }

    /// Adds a commit with the files of a folder to a branch of `models/org/name` or `datasets/org/name`; returns its hash.
    pub fn add_folder(&self, repository: &str, branch: &str, folder: &Path) -> String {
        let mut files = Vec::new();
        collect(folder, "", &mut files);
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        self.add(repository, branch, &files)
    }

    /// The same with these files.
    pub fn add(&self, repository: &str, branch: &str, files: &[(&str, &[u8])]) -> String {
        let files: BTreeMap<String, Vec<u8>> =
            files.iter().map(|&(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
        let mut text = Vec::new();
        for (name, bytes) in &files {
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(bytes);
        }
        let commit = hash(&text)[..40].to_owned();
        let mut state = self.state();
        let repository = state.repositories.entry(repository.to_owned()).or_default();
        repository.commits.insert(commit.clone(), files);
        repository.branches.insert(branch.to_owned(), commit.clone());
        commit
    }

    /// Takes a commit away, as a history that was written anew does.
    pub fn remove(&self, repository: &str, commit: &str) {
        self.state().repositories.get_mut(repository).unwrap().commits.remove(commit).unwrap();
    }

    /// Makes a repository one whose files need [`TOKEN`].
    pub fn close(&self, repository: &str) {
        self.state().repositories.get_mut(repository).unwrap().is_gated = true;
    }

    /// Gives a model another name; the old one leads to it.
    pub fn rename(&self, old: &str, new: &str) {
        let mut state = self.state();
        let repository = state.repositories.remove(&format!("models/{old}")).unwrap();
        state.repositories.insert(format!("models/{new}"), repository);
        state.renamed.insert(old.to_owned(), new.to_owned());
    }

    /// Lets something go wrong.
    pub fn fail(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// What was asked since this was last called: `GET path`, with `bytes=N-` and `token` where they were sent. Paths of
    /// large files at the other host begin with `large:`.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.state().is_closed = true;
        // Each listener is woken to see that.
        self.addresses.iter().for_each(|address| drop(TcpStream::connect(address)));
    }
}

/// What the addresses of a mirror have before what those of the hub have: [`HubServer`] is that too.
pub const MIRROR: &str = "/mirrors/hub";

/// An address where nobody listens.
pub fn closed_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// SHA-256 in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
        } else {
            files.push((name, fs::read(entry.path()).unwrap()));
        }
    }
}

/// What came with a request.
#[derive(Default)]
struct Asked {
    method: String,
    path: String,
    from: Option<usize>,
    has_token: bool,
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let mut asked = Asked { method: words.next()?, path: words.next()?, ..Asked::default() };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { return Some(asked) };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                asked.from = value.trim().strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok();
            }
            "authorization" => asked.has_token = value.trim() == format!("Bearer {TOKEN}"),
            _ => {}
        }
    }
    None
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Bytes of the body that are sent.
    sent: usize,
    /// Whether the connection stays open after that until the client is gone.
    stalls: bool,
}

impl Reply {
    fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: Vec::new(), sent: body.len(), body, stalls: false }
    }

    fn refuse(status: u16, code: &str) -> Self {
        Self { headers: vec![("X-Error-Code", code.to_owned())], ..Self::new(status, Vec::new()) }
    }
}

fn answer(mut stream: TcpStream, is_large_host: bool, state: &Mutex<State>, large: SocketAddr) {
    let Some(asked) = read(&stream) else { return };
    let mut state = state.lock().unwrap();
    let range = asked.from.map(|from| format!(" bytes={from}-")).unwrap_or_default();
    let token = if asked.has_token { " token" } else { "" };
    let host = if is_large_host { "large:" } else { "" };
    state.log.push(format!("{} {host}{}{range}{token}", asked.method, asked.path));
    let reply = if is_large_host { content(&mut state, &asked) } else { hub(&mut state, &asked, large) };
    drop(state);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    if !reply.headers.iter().any(|(name, _)| *name == "Content-Length") {
        write!(head, "Content-Length: {}\r\n", reply.body.len()).unwrap();
    }
    head.push_str("\r\n");
    // The client may be gone.
    let _ = stream.write_all(head.as_bytes());
    if asked.method != "HEAD" {
        let _ = stream.write_all(&reply.body[..reply.sent]);
    }
    if reply.stalls {
        let _ = stream.read(&mut [0]);
    }
}

/// The hub itself.
fn hub(state: &mut State, asked: &Asked, large: SocketAddr) -> Reply {
    let path = asked.path.replace("%2F", "/");
    let path = path.strip_prefix(MIRROR).unwrap_or(&path);
    for (old, new) in &state.renamed {
        if path.contains(&format!("/{old}/")) {
            let location = path.replace(&format!("/{old}/"), &format!("/{new}/"));
            return Reply { headers: vec![("Location", location)], ..Reply::new(307, Vec::new()) };
        }
    }
    if let Some(rest) = path.strip_prefix("/api/") {
        let Some((repository, revision)) = rest.split_once("/revision/") else {
            return Reply::new(404, Vec::new());
        };
        let Some(found) = state.repositories.get(repository) else {
            return Reply::refuse(if asked.has_token { 404 } else { 401 }, "RepoNotFound");
        };
        let commit = found.branches.get(revision).map_or(revision, String::as_str);
        let Some(files) = found.commits.get(commit) else { return Reply::refuse(404, "RevisionNotFound") };
        let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let info = serde_json::json!({ "id": repository, "sha": commit, "siblings": siblings });
        return Reply::new(200, info.to_string().into_bytes());
    }
    let Some((repository, rest)) = path[1..].split_once("/resolve/") else {
        return Reply::new(404, Vec::new());
    };
    let repository = match repository.strip_prefix("datasets/") {
        Some(_) => repository.to_owned(),
        None => format!("models/{repository}"),
    };
    let Some(found) = state.repositories.get(&repository) else { return Reply::refuse(401, "RepoNotFound") };
    if found.is_gated && !asked.has_token {
        return Reply::refuse(401, "GatedRepo");
    }
    let (commit, file) = rest.split_once('/').unwrap();
    let Some(bytes) = found.commits.get(commit).and_then(|files| files.get(file)) else {
        return Reply::refuse(404, "EntryNotFound");
    };
    let (digest, size) = (hash(bytes), bytes.len());
    if file.ends_with(".safetensors") {
        let headers = vec![
            ("X-Repo-Commit", commit.to_owned()),
            ("X-Linked-Etag", format!("\"{digest}\"")),
            ("X-Linked-Size", size.to_string()),
            ("Location", format!("http://{large}/{repository}/{rest}?signature=secret")),
        ];
        return Reply { headers, ..Reply::new(302, Vec::new()) };
    }
    let headers = vec![("X-Repo-Commit", commit.to_owned()), ("ETag", format!("\"{}\"", &digest[..40]))];
    part(state, asked, file, &repository, commit, headers)
}

/// The host of large files.
fn content(state: &mut State, asked: &Asked) -> Reply {
    let path = asked.path[1..].split('?').next().unwrap().to_owned();
    let parts: Vec<&str> = path.splitn(5, '/').collect();
    let [kind, owner, name, commit, file] = parts[..] else { return Reply::new(404, Vec::new()) };
    part(state, asked, file, &format!("{kind}/{owner}/{name}"), commit, Vec::new())
}

/// The part of a file that is asked for, with what goes wrong.
fn part(
    state: &mut State,
    asked: &Asked,
    file: &str,
    repository: &str,
    commit: &str,
    mut headers: Vec<(&'static str, String)>,
) -> Reply {
    let mut bytes = state.repositories[repository].commits[commit][file].clone();
    let size = bytes.len();
    if asked.method == "HEAD" {
        headers.push(("Content-Length", size.to_string()));
        return Reply { headers, ..Reply::new(200, Vec::new()) };
    }
    let fault = state.faults.iter_mut().find(|fault| fault.file == file && fault.times > 0);
    let fault = fault.map(|fault| {
        fault.times -= 1;
        fault.kind
    });
    if let Some(FaultKind::Status(status)) = fault {
        return Reply::new(status, Vec::new());
    }
    if let Some(FaultKind::Damaged) = fault {
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
    }
    let from = asked.from.filter(|_| !matches!(fault, Some(FaultKind::NoParts)));
    let status = if from.is_some() { 206 } else { 200 };
    let from = from.unwrap_or(0).min(size);
    if status == 206 {
        headers.push(("Content-Range", format!("bytes {from}-{}/{size}", size.saturating_sub(1))));
    }
    let body = bytes.split_off(from);
    let sent = match fault {
        Some(FaultKind::Cut(most) | FaultKind::Stall(most)) => most.min(body.len()),
        _ => body.len(),
    };
    let stalls = matches!(fault, Some(FaultKind::Stall(_)));
    Reply { status, headers, body, sent, stalls }
}
