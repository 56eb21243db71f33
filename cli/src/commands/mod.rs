//! One module per command: arguments in, calls of `cpift-model`, tables or JSON out.

pub mod bench;
pub mod completions;
pub mod devices;
pub mod eval;
pub mod generate;
pub mod plan;
pub mod train;

use std::path::PathBuf;

/// Where tokenised data is kept between runs: `cpift-engine` in the user's cache folder. None where there
/// is no such folder, as for users without a home.
fn token_cache() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("cpift-engine"))
}
