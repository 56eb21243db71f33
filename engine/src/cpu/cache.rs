//! The size of the last-level cache.

use std::fs;
use std::path::Path;

/// Bytes of the largest cache that the first core sees; 0 where the system does not tell.
pub fn cache_bytes() -> usize {
    largest(Path::new("/sys/devices/system/cpu/cpu0/cache"))
}

fn largest(caches: &Path) -> usize {
    let Ok(entries) = fs::read_dir(caches) else { return 0 };
    let size = |cache: fs::DirEntry| bytes(&fs::read_to_string(cache.path().join("size")).ok()?);
    entries.flatten().filter_map(size).max().unwrap_or(0)
}

/// `32768K` or `16M` as bytes.
fn bytes(text: &str) -> Option<usize> {
    let text = text.trim();
    let (number, unit) = match text.strip_suffix('K') {
        Some(number) => (number, 1 << 10),
        None => (text.strip_suffix('M')?, 1 << 20),
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_system_writes_them() {
        assert_eq!(bytes("32768K\n"), Some(32 << 20));
        assert_eq!(bytes("16M"), Some(16 << 20));
        assert_eq!(bytes("16"), None);
        assert_eq!(largest(Path::new("no such folder")), 0);
    }
}
