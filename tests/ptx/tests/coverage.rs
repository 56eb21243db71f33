//! That the tests of this program together execute every kernel from its PTX.

use std::io::Write;

use cpift_kernels::executed;

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> i32;
    fn _exit(status: i32) -> !;
}

/// Looks once all tests have ended, in whatever order they ran: when the process exits.
#[test]
fn every_kernel_is_executed_from_its_ptx() {
    // Some of the tests cannot reach all kernels.
    if std::env::args().skip(1).any(|argument| !argument.starts_with('-')) {
        return;
    }
    // SAFETY: the function may be called at any time, and unwinds nowhere.
    assert_eq!(unsafe { atexit(fail_if_kernels_are_missing) }, 0);
}

extern "C" fn fail_if_kernels_are_missing() {
    let executed = executed();
    let all =
        cpift_kernels::families().iter().flat_map(|(_, kernels)| kernels.iter().map(|kernel| kernel.name));
    let missing: Vec<&str> = all.filter(|kernel| !executed.contains(kernel)).collect();
    if !missing.is_empty() {
        _ = writeln!(std::io::stderr(), "these kernels were never executed from their PTX: {missing:?}");
        // SAFETY: ends the process at once.
        unsafe { _exit(101) }
    }
}
