//! Puts the commit into the program, so that results can say what made them.

use std::process::Command;

fn main() {
    for folder in ["src", "../model/src", "../engine/src", "../kernels/src", "../kernels/ptx"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let version = env!("CARGO_PKG_VERSION");
    // Without git, or where this file is no part of the checkout, the version stands alone.
    let is_tracked = git(&["ls-files", "--error-unmatch", "build.rs"]).is_some();
    let commit = git(&["rev-parse", "--short=10", "HEAD"]).filter(|_| is_tracked);
    let Some(commit) = commit else {
        println!("cargo:rustc-env=CPIFT_VERSION={version}");
        return;
    };
    for file in ["logs/HEAD", "index"] {
        if let Some(path) = git(&["rev-parse", "--path-format=absolute", "--git-path", file]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some();
    let changed = if is_changed { ", changed" } else { "" };
    println!("cargo:rustc-env=CPIFT_VERSION={version} (commit {commit}{changed})");
}

/// What git prints; none when it fails or prints nothing.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
