//! `kernels/ptx/modules.rs`: the list by which the PTX gets into programs.

use std::path::Path;

/// The Rust source that includes these PTX files, named `FAMILY.ARCHITECTURE.ptx`.
pub fn source<'a>(files: impl Iterator<Item = &'a String>) -> String {
    let mut text = String::from(
        "// Made by `cargo ptx`: do not edit.\n\n\
         use super::Module;\n\n\
         #[rustfmt::skip]\n\
         pub(super) const MODULES: &[Module] = &[\n",
    );
    for file in files {
        let stem = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
        let (family, architecture) = stem.split_once('.').unwrap_or((&stem, ""));
        text += &format!(
            "    Module {{ family: {family:?}, architecture: {architecture:?}, ptx: include_str!({file:?}) }},\n"
        );
    }
    text + "];\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_a_line() {
        let files = ["adamw.sm_80.ptx".to_owned(), "linear.sm_90a.ptx".to_owned()];
        let text = source(files.iter());
        let line = r#"    Module { family: "linear", architecture: "sm_90a", ptx: include_str!("linear.sm_90a.ptx") },"#;
        assert!(text.lines().any(|found| found == line), "{text}");
        assert_eq!(text.matches("include_str!").count(), 2);
    }
}
