//! Signals at random moments, in folders named in every way a person may name them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::job::{End, Jobs};
use super::{Finding, Outcome, Variant};

/// Most signals in a round.
const MOST: usize = 4;

/// How a person names recipe and run folder.
struct Typed {
    working_directory: PathBuf,
    arguments: Vec<String>,
    run: PathBuf,
}

fn typed(folder: &Path, random: &mut ChaCha8Rng) -> Typed {
    let all = [
        ("", "recipe.toml", Some("out")),
        ("", "recipe.toml", Some("./out/")),
        ("", "recipe.toml", Some("a b/c/ö")),
        ("work", "../recipe.toml", Some("../out")),
        ("work", "link/recipe.toml", Some("link/out")),
        ("", "recipe.toml", None),
        ("work", "../recipe.toml", None),
        ("work", "link/recipe.toml", None),
    ];
    let (working_directory, recipe, out) = all[random.random_range(0..all.len())];
    let working_directory = folder.join(working_directory);
    let mut arguments = vec!["train".to_owned(), recipe.to_owned()];
    arguments.extend(out.iter().flat_map(|out| ["--out".to_owned(), (*out).to_owned()]));
    let run = match out {
        Some(out) => working_directory.join(out),
        None => working_directory.join("runs"),
    };
    Typed { working_directory, arguments, run }
}

/// One round.
pub fn round(jobs: &Jobs, temporary: &Path, random: &mut ChaCha8Rng) -> Result<Outcome, Finding> {
    let folder = temporary.join("job");
    jobs.write_inputs(&folder, Variant::Same);
    fs::create_dir(folder.join("work")).expect("a writable folder");
    std::os::unix::fs::symlink("..", folder.join("work/link")).expect("a writable folder");
    let typed = typed(&folder, random);
    let what = typed.arguments.join(" ");
    let mut signals = Vec::new();
    for signal in 0..random.random_range(1..=MOST) {
        let name = ["KILL", "INT", "TERM"][random.random_range(0..3)];
        let milliseconds = random.random_range(1..400);
        signals.push(format!("{name} after {milliseconds} ms"));
        let mut arguments = typed.arguments.clone();
        // Nothing is there before the first start.
        arguments.extend((signal > 0).then(|| "--resume".to_owned()));
        let child = jobs.command(&typed.working_directory, &arguments).spawn().expect("the binary");
        std::thread::sleep(Duration::from_millis(milliseconds));
        let id = child.id().to_string();
        // It may have ended: then there is nobody to kill.
        let _ = Command::new("kill").args([&format!("-{name}"), &id]).output();
        let output = child.wait_with_output().expect("a child of ours");
        if let End::Refused(line) = Jobs::end(&output).map_err(|end| format!("{what}, {signals:?}: {end}"))? {
            return Err(format!("{what}, {signals:?}: {line}"));
        }
    }
    let mut arguments = typed.arguments.clone();
    arguments.push("--resume".to_owned());
    let output = jobs.command(&typed.working_directory, &arguments).output().expect("the binary");
    let run = match fs::read_dir(&typed.run) {
        // The default folder is the only one in `runs`.
        Ok(mut runs) if typed.run.ends_with("runs") => runs.next().expect("a run").expect("a run").path(),
        _ => typed.run.clone(),
    };
    let checked = match Jobs::end(&output) {
        Ok(End::Done) => jobs.compare(&run),
        Ok(End::Refused(line)) => Err(line),
        Ok(End::Stopped) => Err("stopped by nobody".to_owned()),
        Err(finding) => Err(finding),
    };
    checked.map(|()| Outcome::SameBits).map_err(|finding| format!("{what}, {signals:?}: {finding}"))
}
