//! Models and data by their names on the hub.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cpift_model::Checkpoint;
use cpift_tests::hub::{Fault, FaultKind, HubServer, MIRROR};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{JobFiles, engine, one_step, stderr, stdout, text};

/// A job whose base is on a hub, with a cache of its own.
struct HubJob {
    files: JobFiles,
    server: HubServer,
    cache: TempDir,
}

impl HubJob {
    fn new() -> Self {
        Self { files: one_step(), server: HubServer::start(), cache: TempDir::new().unwrap() }
    }

    fn engine(&self, arguments: &[&str]) -> Command {
        let mut command = engine(arguments);
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.cache.path()).env("HF_ENDPOINT", self.server.address());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.engine(arguments).output().unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output).to_owned()
    }
}

#[test]
fn a_model_is_the_same_by_name_in_the_cache_and_as_a_folder() {
    let job = HubJob::new();
    let model = job.files.model();
    let commit = job.server.add_folder("models/org/name", "main", Path::new(&model));
    let rows = fs::read(job.files.path("code.eval.jsonl")).unwrap();
    job.server.add("datasets/org/rows", "main", &[("code/eval.jsonl", &rows)]);
    let data = job.files.path("code.eval.jsonl");
    let eval = |model: &str| job.succeeds(&["eval", model, "--data", &data, "--generate", "--json"]);
    let folder = eval(&model);
    assert_eq!(job.server.take_requests(), [""; 0], "a folder needs no hub");
    assert_eq!(eval("org/name"), folder);
    assert_eq!(eval(&format!("org/name@{commit}")), folder);
    job.server.take_requests();
    let arguments = ["eval", "org/name", "--data", &data, "--generate", "--json"];
    let output = job.engine(&arguments).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!((stdout(&output), stderr(&output).contains("fetching")), (folder.as_str(), false));
    assert_eq!(job.server.take_requests(), [""; 0]);
    let snapshot = job.cache.path().join("hub/models--org--name/snapshots").join(&commit);
    assert_eq!(eval(text(&snapshot)), folder);

    let of = |data: &str| -> Value {
        let document = job.succeeds(&["eval", "org/name", "--data", data, "--json"]);
        let document: Value = serde_json::from_str(&document).unwrap();
        document["files"][0]["loss"].clone()
    };
    assert_eq!(of("hf://datasets/org/rows/code/eval.jsonl"), of(&data));
    let printed = job.succeeds(&["generate", "org/name", "--prompt", "a", "--max-new-tokens", "2"]);
    assert_eq!(printed, job.succeeds(&["generate", &model, "--prompt", "a", "--max-new-tokens", "2"]));
    assert!(job.succeeds(&["inspect", "org/name"]).contains("org--name"));
}

/// What has come stays and the rest follows with the next command, whether something catches the signal (`train`, which
/// then says that nothing had begun) or not.
#[cfg(unix)]
#[test]
fn an_interrupt_in_a_download_keeps_what_has_come() {
    use std::os::unix::process::ExitStatusExt;

    const SENT: usize = 3000;
    // What does not catch SIGINT is started by some shells with it ignored: there SIGTERM stands for it.
    for (command, name, signal) in [("eval", "-TERM", 15), ("train", "-INT", 2)] {
        let job = HubJob::new();
        let model = job.files.model();
        job.server.add_folder("models/org/name", "main", Path::new(&model));
        let whole = fs::read(Path::new(&model).join("model.safetensors")).unwrap();
        assert!(whole.len() > SENT);
        let (data, recipe, run) =
            (job.files.path("code.eval.jsonl"), job.files.path("recipe.toml"), job.files.path("hub-run"));
        let local = fs::read_to_string(&recipe).unwrap();
        let configuration = local.lines().find(|line| line.starts_with("config = ")).unwrap();
        fs::write(&recipe, local.replace(configuration, "base = \"org/name\"")).unwrap();
        let arguments = match command {
            "eval" => vec!["eval", "org/name", "--data", &data],
            _ => vec!["train", &recipe, "--out", &run, "--threads", "1", "--device", "cpu"],
        };
        job.server.fail(Fault { file: "model.safetensors", kind: FaultKind::Stall(SENT), times: 1 });
        let mut child = job.engine(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let partial = partial_file(&mut child, job.cache.path(), SENT);
        let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        match command {
            "eval" => assert_eq!(output.status.signal(), Some(signal), "{}", stderr(&output)),
            _ => {
                assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
                assert!(
                    stderr(&output).ends_with("\nstopped before the first step\n"),
                    "{}",
                    stderr(&output)
                );
                assert!(!Path::new(&run).exists());
            }
        }
        assert_eq!(fs::read(&partial).unwrap(), whole[..SENT]);
        job.server.take_requests();
        job.succeeds(&arguments);
        let requests = job.server.take_requests();
        let resumed = |request: &&String| request.contains(&format!("bytes={SENT}-"));
        assert!(requests.iter().any(|request| resumed(&request)), "{requests:?}");
        assert!(!partial.exists());
    }
}

/// The only partial file of a cache, once a process has written so many bytes to it. A process that does not get there
/// in a minute is ended, and the test fails with what it said.
#[cfg(unix)]
fn partial_file(child: &mut Child, cache: &Path, length: usize) -> PathBuf {
    let blobs = cache.join("hub/models--org--name/blobs");
    let started = Instant::now();
    let is_running = |child: &mut Child| child.try_wait().unwrap().is_none();
    while is_running(child) && started.elapsed() < Duration::from_secs(60) {
        let entries = fs::read_dir(&blobs).into_iter().flatten().map(|entry| entry.unwrap().path());
        let mut partial =
            entries.filter(|path| path.extension().is_some_and(|ending| ending == "incomplete"));
        let is_long = |path: &PathBuf| path.metadata().is_ok_and(|found| found.len() == length as u64);
        if let Some(path) = partial.find(is_long) {
            return path;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // Fails only where it has ended, and then has said all that it says.
    let _ = child.kill();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    panic!("no partial file of {length} bytes:\n{said}");
}

#[test]
fn rows_need_no_weights() {
    let job = HubJob::new();
    job.server.add_folder("models/org/name", "main", Path::new(&job.files.model()));
    job.succeeds(&["data", &job.files.path("code.eval.jsonl"), "--model", "org/name"]);
    let requests = job.server.take_requests();
    assert!(requests.iter().any(|request| request.contains("tokenizer.json")), "{requests:?}");
    assert!(!requests.iter().any(|request| request.contains("safetensors")), "{requests:?}");
    job.succeeds(&["data", &job.files.path("recipe.toml"), "--model", "org/name", "--task", "code"]);
}

#[test]
fn a_run_goes_on_with_the_commit_it_was_begun_with() {
    let job = HubJob::new();
    let model = job.files.model();
    let base = job.server.add_folder("models/org/base", "main", Path::new(&model));
    let rows = fs::read(job.files.path("code.train.jsonl")).unwrap();
    let data = job.server.add("datasets/org/rows", "v1", &[("train.jsonl", &rows)]);
    let recipe = r#"
        seed = 3
        [model]
        base = "org/base"
        max_length = 48
        [train]
        steps = 2
        batch_size = 2
        [[task]]
        name = "code"
        train = "hf://datasets/org/rows@v1/*.jsonl"
        eval = "code.eval.jsonl"
        [[task]]
        name = "logic"
        train = "logic.train.jsonl"
    "#;
    let (path, run) = (job.files.path("hub.toml"), job.files.path("hub-run"));
    fs::write(&path, recipe).unwrap();
    job.succeeds(&["plan", &path, "--device", "cpu"]);
    let train = |more: &[&str]| {
        job.run(&[&["train", &path, "--out", &run, "--threads", "1", "--device", "cpu"], more].concat())
    };
    let begun = train(&["--until", "probe"]);
    assert_eq!(begun.status.code(), Some(0), "{}", stderr(&begun));
    let hub = || {
        let record = fs::read_to_string(Path::new(&run).join("run.json")).unwrap();
        serde_json::from_str::<Value>(&record).unwrap()["hub"].clone()
    };
    let expected = json!([
        { "key": "model.base", "kind": "model", "repository": "org/base", "revision": base, "asked": "main" },
        { "key": "task.code.train", "kind": "dataset", "repository": "org/rows", "revision": data, "asked": "v1" },
    ]);
    assert_eq!(hub(), expected);

    // Model and data move on; the run does not.
    let other = Path::new(&model).join("generation_config.json");
    fs::write(&other, fs::read_to_string(&other).unwrap() + " ").unwrap();
    let moved = job.server.add_folder("models/org/base", "main", Path::new(&model));
    job.server.add("datasets/org/rows", "v1", &[("train.jsonl", &rows), ("more.jsonl", &rows)]);
    job.server.take_requests();
    let resumed = train(&["--resume"]);
    assert_eq!(resumed.status.code(), Some(0), "{}", stderr(&resumed));
    assert_eq!(hub(), expected);
    // The pattern alone has to be asked for.
    assert_eq!(job.server.take_requests(), [format!("GET /api/datasets/org/rows/revision/{data}")]);
    Checkpoint::open(&Path::new(&run).join("final")).unwrap();

    // A commit that is gone is not needed while the cache has it.
    job.server.remove("models/org/base", &base);
    let resumed = train(&["--resume"]);
    assert_eq!(resumed.status.code(), Some(0), "{}", stderr(&resumed));
    fs::remove_dir_all(job.cache.path().join("hub/models--org--base")).unwrap();
    let refused = train(&["--resume"]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    let says =
        format!("hub.toml:4: `model.base`: org/base no longer has the commit {base}, which `main` was");
    assert!(stderr(&refused).contains(&says), "{}", stderr(&refused));

    // Asked for by name, another commit is another base.
    fs::write(&path, recipe.replace("org/base", &format!("org/base@{moved}"))).unwrap();
    let refused = train(&["--resume"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("generation_config.json"), "{}", stderr(&refused));
}

#[test]
fn nothing_is_fetched_before_what_is_cheap_to_check() {
    let job = HubJob::new();
    job.server.add_folder("models/org/name", "main", Path::new(&job.files.model()));
    let (path, data) = (job.files.path("hub.toml"), job.files.path("code.train.jsonl"));
    let recipe = |train: &str| {
        let text = format!("[model]\nbase = \"org/name\"\n[[task]]\nname = \"a\"\ntrain = {train:?}\n");
        fs::write(&path, text).unwrap();
    };
    let refused = |arguments: &[&str], expected: &str| {
        let output = job.run(arguments);
        assert_ne!(output.status.code(), Some(0));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        job.server.take_requests()
    };
    recipe(&data);
    let full = text(Path::new(&path).parent().unwrap()).to_owned();
    for arguments in [["train", "--out"], ["compare", "--out"]] {
        let [command, out] = arguments;
        assert_eq!(refused(&[command, &path, out, &full], &full), [""; 0]);
    }
    for command in ["train", "plan", "compare"] {
        assert_eq!(refused(&[command, &path, "--device", "cuda:99"], "cuda:99"), [""; 0]);
    }
    recipe("nowhere.jsonl");
    assert_eq!(refused(&["plan", &path], "nowhere.jsonl"), [""; 0]);
    assert_eq!(refused(&["eval", "org/name", "--data", "nowhere.jsonl"], "nowhere.jsonl"), [""; 0]);
    // The weights come after whatever else is looked up.
    recipe("hf://datasets/org/none/rows.jsonl");
    let requests = refused(&["plan", &path], "org/none");
    assert!(requests.iter().any(|request| request.ends_with("config.json")), "{requests:?}");
    assert!(!requests.iter().any(|request| request.contains("safetensors")), "{requests:?}");
}

#[test]
fn a_mirror_and_a_proxy_are_used_and_named() {
    let job = HubJob::new();
    job.server.add_folder("models/org/name", "main", Path::new(&job.files.model()));
    let closed = cpift_tests::hub::closed_address();
    let inspect = |address: &str, variable: &str, value: &str| {
        let mut command = job.engine(&["inspect", "org/name"]);
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        command.env("HF_ENDPOINT", address).env(variable, value).output().unwrap()
    };
    let address = job.server.address();
    for (variable, scheme) in [("HTTP_PROXY", "http"), ("ALL_PROXY", "socks5")] {
        let proxy = closed.replace("http", scheme);
        let output = inspect(&address, variable, &proxy);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let says = format!(", by the proxy {})", closed.trim_start_matches("http://"));
        assert!(stderr(&output).contains(&says), "{}", stderr(&output));
    }
    let mirror = address + MIRROR;
    let output = inspect(&mirror, "HF_HUB_OFFLINE", "0");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let requests = job.server.take_requests();
    assert!(
        requests.iter().all(|request| request.contains(MIRROR) || request.contains("large:")),
        "{requests:?}"
    );
}

#[test]
fn a_configuration_is_no_name() {
    let job = HubJob::new();
    let path = job.files.path("hub.toml");
    let text = "[model]\nconfig = \"hf://org/name\"\n[[task]]\nname = \"a\"\ntrain = \"code.train.jsonl\"\n";
    fs::write(&path, text).unwrap();
    let output = job.run(&["plan", &path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("hub.toml:2: `model.config`: is a file: "), "{}", stderr(&output));
}

#[test]
fn a_name_that_cannot_be_resolved_is_one_line() {
    let job = HubJob::new();
    job.server.add("datasets/org/rows", "main", &[("train.jsonl", b"{}")]);
    let refused = |arguments: &[&str], code| {
        let output = job.run(arguments);
        let message = stderr(&output).trim_end().to_owned();
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        message
    };
    let message = refused(&["inspect", "org/name"], 2);
    assert!(
        message.contains("org/name: there is no such folder here, and there is no model of that name at "),
        "{message}"
    );
    let path = job.files.path("hub.toml");
    let recipe = |base: &str, train: &str| {
        let text = format!("[model]\nbase = {base:?}\n[[task]]\nname = \"a\"\ntrain = {train:?}\n");
        fs::write(&path, text).unwrap();
    };
    // Files here are looked for first: they must be there for the name to be asked for.
    let rows = job.files.path("rows.jsonl");
    fs::write(&rows, "{\"prompt\": \"a\", \"completion\": \"b\"}\n").unwrap();
    recipe("org/name", "rows.jsonl");
    let message = refused(&["train", &path], 2);
    assert!(
        message.contains("hub.toml:2: `model.base`: org/name: there is no such folder here"),
        "{message}"
    );
    recipe(&job.files.model(), "hf://datasets/org/rows/tarin.jsonl");
    let message = refused(&["plan", &path], 2);
    assert!(message.contains("hub.toml:5: `task[0].train`: org/rows has no file tarin.jsonl"), "{message}");
    assert!(message.contains("did you mean train.jsonl?"), "{message}");
    let mut command = job.engine(&["eval", "org/name", "--data", &rows]);
    let output = command.env("HF_ENDPOINT", cpift_tests::hub::closed_address()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("http://127.0.0.1:"), "{}", stderr(&output));
}
