//! Ctrl-C: once to stop in order, twice to stop at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_model::{Error, Result};

use crate::display::tell;

/// Exit code of a job that a person or program stopped, as shells report an interrupt.
pub const EXIT_CODE: u8 = 130;

/// A flag that becomes true at the first Ctrl-C, termination or hang-up signal; the second ends the
/// process on the spot. Whole checkpoints on disk survive either.
///
/// # Errors
/// When the handler cannot be installed.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(EXIT_CODE));
        }
        tell("\nstopping after this step with a checkpoint; once more stops at once\n");
    })
    .map_err(|error| Error::Job(format!("the handler of Ctrl-C cannot be installed: {error}")))?;
    Ok(stop)
}
