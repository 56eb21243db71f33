//! What is measured: an operation at a shape, with inputs of its own.

use cpift_engine::cublas::Product;
use cpift_engine::ops::work::Work;
use cpift_engine::{Device, Result};

/// An operation with its inputs, to be run again and again.
pub trait Run: Send {
    /// Runs it once; on a GPU, queues it.
    ///
    /// # Errors
    /// The engine's.
    fn run(&mut self) -> Result<()>;

    /// Brings back inputs that running has changed for the worse: where values would shrink run by run until
    /// the arithmetic of denormal numbers is what is measured. Not timed.
    ///
    /// # Errors
    /// The engine's.
    fn reset(&mut self) -> Result<()> {
        Ok(())
    }
}

impl<F: FnMut() -> Result<()> + Send> Run for F {
    fn run(&mut self) -> Result<()> {
        self()
    }
}

/// Makes a case's inputs.
type Prepare = Box<dyn Fn(&Device) -> Result<Box<dyn Run>> + Send + Sync>;

/// A line of the table.
pub struct Case {
    /// Operation, variant and model, as `linear forward gate 0.5B`: what a filter looks in.
    pub name: String,
    /// Sizes, as `256×896×4864`.
    pub shape: String,
    /// What it moves and computes.
    pub work: Work,
    /// The matrix product it is, if it is one: for the same by another library.
    pub product: Option<Product>,
    prepare: Prepare,
}

impl Case {
    /// A case whose inputs `prepare` makes.
    pub fn new<R: Run + 'static>(
        name: impl Into<String>,
        shape: impl Into<String>,
        work: Work,
        prepare: impl Fn(&Device) -> Result<R> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            shape: shape.into(),
            work,
            product: None,
            prepare: Box::new(move |device| Ok(Box::new(prepare(device)?))),
        }
    }

    /// The same case, known to be this matrix product.
    #[must_use]
    pub fn product(self, product: Product) -> Self {
        Self { product: Some(product), ..self }
    }

    /// Makes the inputs.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn prepare(&self, device: &Device) -> Result<Box<dyn Run>> {
        (self.prepare)(device)
    }
}
