//! The pinned compiler: where it is, and how it is called.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;

/// The version all committed PTX is made with.
pub const RELEASE: &str = "1.96.0";

/// Architectures that PTX is made for, with the features LLVM needs beside the name. A kernel says which is its own.
///
/// PTX for sm_80 runs on everything newer, and LLVM's lowest PTX version for it is 7.0: CUDA 11.0. That for sm_90a
/// runs on compute capability 9.0 alone, in PTX 8.0: CUDA 12.0.
pub const TARGETS: &[Target] =
    &[Target { name: "sm_80", features: "" }, Target { name: "sm_90a", features: "" }];

/// An architecture to compile for.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// As in `-Ctarget-cpu` and in file names.
    pub name: &'static str,
    /// As in `-Ctarget-feature`.
    pub features: &'static str,
}

/// Flags for every target.
///
/// Without JumpThreading: it copies barriers into the sides of a branch (rust-lang/rust#137086), where
/// threads wait for each other in different places. With `immediate-abort` a panic is a trap, without the
/// code for its message.
const FLAGS: &[&str] =
    &["-Zmir-enable-passes=-JumpThreading", "-Zunstable-options", "-Cpanic=immediate-abort"];

/// The release profile of the workspace is for programs; this is for kernels, whatever that is.
const PROFILE: &[(&str, &str)] = &[
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false"),
    ("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "false"),
];

/// Flags as the manifest has them.
pub fn flags() -> Vec<String> {
    FLAGS.iter().map(|&flag| flag.to_owned()).collect()
}

/// A compiler of the pinned version, with its library source.
#[derive(Debug)]
pub struct Compiler {
    rustc: PathBuf,
    cargo: PathBuf,
    /// As the manifest has it: release and LLVM.
    pub version: String,
}

/// What a build gave.
#[derive(Debug)]
pub struct Output {
    /// The PTX of the whole crate.
    pub text: String,
    /// Where that lies.
    pub path: PathBuf,
    /// Every source file the compiler read, relative to `kernels/`.
    pub sources: Vec<String>,
}

impl Compiler {
    /// The first that fits: in `folder` if given; else Debian's in /usr/bin, then rustup's.
    pub fn find(folder: Option<&Path>) -> Result<Self, Error> {
        let mut folders: Vec<PathBuf> = match folder {
            Some(folder) => vec![folder.to_owned()],
            None => vec![PathBuf::from("/usr/bin")],
        };
        if folder.is_none() {
            let which = output(Command::new("rustup").args(["which", "rustc", "--toolchain", RELEASE]));
            folders.extend(which.ok().and_then(|path| Some(Path::new(path.trim()).parent()?.to_owned())));
        }
        let mut found = Vec::new();
        for folder in folders {
            match Self::in_folder(&folder) {
                Ok(compiler) => return Ok(compiler),
                Err(problem) => found.push(format!("{} {problem}", folder.display())),
            }
        }
        Err(Error::NoCompiler { release: RELEASE, found: found.join(", ") })
    }

    fn in_folder(folder: &Path) -> Result<Self, String> {
        let (rustc, cargo) = (folder.join("rustc"), folder.join("cargo"));
        if !rustc.is_file() || !cargo.is_file() {
            return Err("has no rustc and cargo".to_owned());
        }
        let ask = |arguments: &[&str]| output(clean(&mut Command::new(&rustc)).args(arguments));
        let verbose = ask(&["--version", "--verbose"]).map_err(|_| "has a rustc that fails".to_owned())?;
        let value = |key: &str| verbose.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("unknown");
        let release = value("release: ");
        if release != RELEASE {
            return Err(format!("has rustc {release}"));
        }
        let root = ask(&["--print", "sysroot"]).map_err(|_| "has a rustc that fails".to_owned())?;
        if !Path::new(root.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file() {
            return Err(format!("has rustc {release}, but no library source"));
        }
        let version = format!("{release} (LLVM {})", value("LLVM version: "));
        Ok(Self { rustc, cargo, version })
    }

    /// Compiles `kernels/` for a target, in `target/ptx`.
    pub fn build(&self, kernels: &Path, target: Target) -> Result<Output, Error> {
        let folder = kernels.with_file_name("target").join("ptx").join(target.name);
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        let path = folder.join("kernels.s");
        let mut flags = flags();
        flags.push(format!("-Ctarget-cpu={}", target.name));
        if !target.features.is_empty() {
            flags.push(format!("-Ctarget-feature={}", target.features));
        }
        let mut command = Command::new(&self.cargo);
        clean(&mut command)
            .current_dir(kernels)
            .args(["rustc", "--quiet", "--lib", "--release", "--locked", "-Zbuild-std=core"])
            .args(["--target", "nvptx64-nvidia-cuda"])
            .arg("--target-dir")
            .arg(&folder)
            .arg("--")
            .arg(format!("--emit=asm={}", path.display()))
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .envs(PROFILE.iter().copied());
        // The compiler's messages are for the person, as they come.
        let status = command.status().map_err(|problem| failed(&command, problem.to_string()))?;
        if !status.success() {
            return Err(failed(&command, "failed, see above".to_owned()));
        }
        let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
        let sources = read_sources(kernels, &folder)?;
        Ok(Output { text, path, sources })
    }
}

/// The source files by cargo's own record, `…/libcpift_kernels.d`: a make rule.
fn read_sources(kernels: &Path, folder: &Path) -> Result<Vec<String>, Error> {
    let path = folder.join("nvptx64-nvidia-cuda/release/libcpift_kernels.d");
    let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
    let mut sources = parse_rule(&text)
        .into_iter()
        .filter_map(|source| Some(Path::new(&source).strip_prefix(kernels).ok()?.to_str()?.to_owned()))
        .collect::<Vec<_>>();
    sources.sort();
    Ok(sources)
}

/// What stands behind the colon of a make rule; a space inside a name is written `\ `.
fn parse_rule(text: &str) -> Vec<String> {
    let list = text.split_once(": ").map_or("", |(_, list)| list);
    let names = list.replace("\\ ", "\0");
    names.split_whitespace().map(|name| name.replace('\0', " ")).collect()
}

/// Takes the settings of the cargo this runs under out of a command's environment.
fn clean(command: &mut Command) -> &mut Command {
    let ours = |name: &OsStr| {
        let name = name.to_string_lossy();
        let kept =
            matches!(&*name, "CARGO_HOME") || name.starts_with("CARGO_NET") || name.starts_with("CARGO_HTTP");
        let prefixes = ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"];
        !kept && prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    // Empty turns off a wrapper that a user's configuration names.
    command.env("RUSTC_WRAPPER", "").env("RUSTC_WORKSPACE_WRAPPER", "")
}

/// Runs a program to its end and gives what it printed.
pub fn output(command: &mut Command) -> Result<String, Error> {
    let output = command.output().map_err(|problem| failed(command, problem.to_string()))?;
    let printed = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(printed(&output.stdout) + &printed(&output.stderr)),
        false => Err(failed(command, format!("failed:\n{}", printed(&output.stderr).trim_end()))),
    }
}

fn failed(command: &Command, problem: String) -> Error {
    Error::Program { program: command.get_program().to_string_lossy().into_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_make_rule_may_have_spaces() {
        let rule = "/a b/lib.rlib: /a\\ b/src/lib.rs /a\\ b/src/x.rs\n";
        assert_eq!(parse_rule(rule), ["/a b/src/lib.rs", "/a b/src/x.rs"]);
        assert_eq!(parse_rule(""), [""; 0]);
    }

    #[test]
    fn a_folder_without_the_compiler_is_an_error_that_says_how_to_get_it() {
        let empty = tempfile::tempdir().unwrap();
        let message = Compiler::find(Some(empty.path())).unwrap_err().to_string();
        assert!(message.contains("has no rustc and cargo"), "{message}");
        assert!(message.contains("rustup toolchain install 1.96.0 -c rust-src"), "{message}");
    }
}
