//! What all fuzz targets share.

/// Takes away libFuzzer's hook, which ends the process on every panic: one in a library is an error of the input when
/// the program catches it. A panic that nobody catches ends the process all the same.
pub fn allow_contained_panics() {
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}
