//! What a launch takes warps and the asynchronous proxy to do and to demand, where tests ask for something else.

/// How the emulator's model differs from what kernels of this project are held to.
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
    /// Shuffles take the value of the lane behind the one that is asked for.
    ShufflesOffByOne,
    /// The second and third matrix of `ldmatrix` change places.
    MatricesExchanged,
    /// Each two rows of a matrix of `ldmatrix` change places.
    MatrixRowsExchanged,
    /// `ldmatrix` does not transpose.
    MatricesNotTransposed,
    /// The second and third register of A of `mma.sync` change places.
    FragmentsOfAExchanged,
    /// Both registers of B of `mma.sync` change places.
    FragmentsOfBExchanged,
    /// The second and third of four sums of `mma.sync` change places.
    FragmentsOfSumsExchanged,
    /// Waits for groups of `cp.async` return at once.
    CopiesNotAwaited,
    /// Waits for groups of `cp.async` are for the latest groups, not for the earliest.
    LatestCopiesAwaited,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::StridesExchanged,
        Self::OperandsNotSwizzled,
        Self::OperandsSwizzledFromStart,
        Self::RegistersExchanged,
        Self::ParityInverted,
        Self::TilesSwizzledFromStart,
        Self::BytesNotAwaited,
        Self::SumsExchanged,
        Self::AccumulationInverted,
        Self::ShufflesOffByOne,
        Self::MatricesExchanged,
        Self::MatrixRowsExchanged,
        Self::MatricesNotTransposed,
        Self::FragmentsOfAExchanged,
        Self::FragmentsOfBExchanged,
        Self::FragmentsOfSumsExchanged,
        Self::CopiesNotAwaited,
        Self::LatestCopiesAwaited,
    ];
}

impl Rules {
    /// Whether the model has this mutation.
    pub fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Places of four registers, as they are but for a mutation.
    pub(super) fn order(&self, mutation: Mutation) -> [usize; 4] {
        if self.has(mutation) { [0, 2, 1, 3] } else { [0, 1, 2, 3] }
    }
}
