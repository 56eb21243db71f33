//! Breaks jobs at random: kills them, damages and swaps the files of their run folders, fills the disk.
//!
//!     cargo run -p cpift-tests --bin campaign -- kills|swaps|disks --count N --seed S --binary PATH
//!
//! Every round must end in the bits of a run that nothing happened to, or in a refusal. Each finding is one line, with
//! the folder that is kept of it.

use std::path::PathBuf;
use std::process::ExitCode;

use cpift_tests::campaign::{Campaign, Kind};

const USAGE: &str = "usage: campaign kills|swaps|disks --count N --seed S --binary PATH";

fn main() -> ExitCode {
    let Some((kind, count, seed, binary)) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let campaign = Campaign::new(&binary, true);
    let mut findings = 0;
    for round in seed..seed + count {
        if let Err(finding) = campaign.round(kind, round) {
            println!("{} --count 1 --seed {round}: {finding}", kind.name());
            findings += 1;
        }
    }
    println!("{}: {count} rounds, {findings} findings; {}", kind.name(), campaign.summary());
    ExitCode::from(u8::from(findings > 0))
}

fn arguments() -> Option<(Kind, u64, u64, PathBuf)> {
    let mut words = std::env::args().skip(1);
    let kind = Kind::named(&words.next()?)?;
    let (mut count, mut seed, mut binary) = (100, 0, None);
    while let Some(option) = words.next() {
        let value = words.next()?;
        match option.as_str() {
            "--count" => count = value.parse().ok()?,
            "--seed" => seed = value.parse().ok()?,
            "--binary" => binary = Some(std::path::absolute(value).ok()?),
            _ => return None,
        }
    }
    Some((kind, count, seed, binary?))
}
