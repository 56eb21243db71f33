//! What a launch takes the asynchronous proxy to do and to demand, where tests ask for something else.

/// How the emulator's model of the asynchronous proxy differs from what kernels of this project are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// A deliberate mutation in the model.
    pub mutation: Option<Mutation>,
    /// Whether a barrier is enough for TMA to know of an mbarrier that was initialised before.
    ///
    /// The PTX ISA's example of releasing an mbarrier to the asynchronous proxy (in `membar / fence`) has a proxy fence
    /// behind `mbarrier.init`, so the kernels here need one. Triton writes `bar.sync` alone, and its kernels are right
    /// on hardware.
    pub mbarriers_unfenced: bool,
}

/// A mutation that the model could have: tests show that each would be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Leading and stride offsets of operands across k change places.
    StridesExchanged,
    /// The tensor cores read operands as if nothing were swizzled.
    OperandsNotSwizzled,
    /// The tensor cores swizzle by the distance from the operand's start, not by the address.
    OperandsSwizzledFromStart,
    /// The second and third register of a left operand change places.
    RegistersExchanged,
    /// Phases of the other parity are waited for.
    ParityInverted,
    /// TMA swizzles by the distance from the tile's start, not by the address.
    TilesSwizzledFromStart,
    /// Phases end with the threads' arrival, whatever bytes are missing.
    BytesNotAwaited,
    /// The second and third of four sums change places.
    SumsExchanged,
    /// Sums begin anew where they are to be added to, and the other way round.
    AccumulationInverted,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::StridesExchanged,
        Self::OperandsNotSwizzled,
        Self::OperandsSwizzledFromStart,
        Self::RegistersExchanged,
        Self::ParityInverted,
        Self::TilesSwizzledFromStart,
        Self::BytesNotAwaited,
        Self::SumsExchanged,
        Self::AccumulationInverted,
    ];
}

impl Rules {
    /// Whether the model has this mutation.
    pub fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}
