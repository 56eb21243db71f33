//! Small texts of PTX, executed.

use cpift_kernels::kernel;
use cpift_kernels::launch::{Launch, LaunchError, Request, Slice, SliceMut};
use cpift_kernels::simt::F32x4;
use cpift_stand_in::execute::{self, Runs};
use cpift_stand_in::{Entry, Module};
use source::emulator::{Emulator, Schedule};

/// Words of the kernel's buffers.
const WORDS: usize = 16_384;

kernel! {
    /// Does nothing: what is executed in its place is the text of a test.
    pub fn probe { block: 128, grid: 1, shared: 65_536, architecture: "sm_90a" } (
        input: read u32 [WORDS as u64] align 16,
        output: update u32 [WORDS as u64] align 16,
    ) {
        let _ = (input, output);
    }
}

/// Executes kernels from PTX of ours.
#[derive(Debug)]
struct Text(Emulator, Entry);

impl Launch for Text {
    unsafe fn launch(&self, request: &Request<'_>) -> Result<(), LaunchError> {
        // SAFETY: the caller's promise; the entry has the kernel's parameters.
        unsafe { execute::launch(Runs::Ptx, &self.0, request, &self.1) }
    }

    fn multiprocessors(&self) -> u32 {
        1
    }

    fn compute_capability(&self) -> (u32, u32) {
        (9, 0)
    }
}

/// A kernel of this body. %rd1 and %rd2 are the addresses of its buffers, %r1 is the thread, %r2 the address of the
/// shared memory.
pub fn module(body: &str) -> Result<Module, String> {
    Module::parse(&format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 dyn_smem[];\n\
         .visible .entry probe(\n.param .u64 .ptr .align 1 probe_param_0,\n.param .u64 .ptr .align 1 probe_param_1\n)\n\
         .reqntid 128, 1, 1\n{{\n.reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<200>; .reg .b64 %rd<9>;\n\
         ld.param.b64 %rd1, [probe_param_0]; ld.param.b64 %rd2, [probe_param_1];\n\
         mov.u32 %r1, %tid.x; mov.u32 %r2, dyn_smem;\n{body}\nret;\n}}\n"
    ))
}

/// The output after the body has been executed on an input, of zeros behind what is given.
pub fn execute(body: &str, input: &[u32]) -> Result<Vec<u32>, String> {
    let mut buffers = [vec![F32x4([0.0; 4]); WORDS / 4], vec![F32x4([0.0; 4]); WORDS / 4]];
    let [input_buffer, output_buffer] = &mut buffers;
    for (place, &word) in input.iter().enumerate() {
        input_buffer[place / 4].0[place % 4] = f32::from_bits(word);
    }
    let mut entries = module(body)?.entries;
    let entry =
        std::sync::Arc::into_inner(entries.remove("probe").expect("the kernel")).expect("no other owner");
    let text = Text(Emulator::new(Schedule::Shuffled(3)).like((9, 0), 1), entry);
    // SAFETY: so many words, borrowed for as long as the launch runs.
    let (input, output) = unsafe {
        (
            Slice::<u32>::new(input_buffer.as_ptr() as u64, WORDS),
            SliceMut::<u32>::new(output_buffer.as_mut_ptr() as u64, WORDS),
        )
    };
    probe(&text, input, output).map_err(|error| error.to_string())?;
    Ok(output_buffer.iter().flat_map(|vector| vector.0.map(f32::to_bits)).collect())
}
