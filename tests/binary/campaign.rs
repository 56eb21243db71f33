//! A few rounds of the campaign of `cargo run -p cpift-tests --bin campaign`.

use std::path::Path;

use cpift_tests::campaign::{Campaign, Kind};

#[track_caller]
fn rounds(kind: Kind, count: u64) {
    let campaign = Campaign::new(Path::new(env!("CARGO_BIN_EXE_cpift-engine")), false);
    let findings: Vec<String> = (0..count).filter_map(|seed| campaign.round(kind, seed).err()).collect();
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn killed_jobs_end_in_the_same_bits() {
    rounds(Kind::Kills, 8);
}

#[test]
fn tampered_run_folders_are_noticed_or_mended() {
    rounds(Kind::Swaps, 8);
}

#[test]
fn jobs_on_full_disks_end_in_the_same_bits() {
    rounds(Kind::Disks, 4);
}
