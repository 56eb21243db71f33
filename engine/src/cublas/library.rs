//! cuBLASLt by `cudarc`, which loads it at run time: nothing here is called before [`find`] has found it.

use std::ffi::c_void;
use std::ptr;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{self, cublasLtMatmulDescAttributes_t as Attribute, cudaDataType};
use cudarc::driver::result::ctx;

use super::ColumnMajor;
use crate::gpu::Stream;

/// The functions called here. `cudarc` panics when it is asked for one that is not there.
const FUNCTIONS: [&str; 13] = [
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtGetVersion",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
];
/// Of CUDA 11.0, whose interface this is.
const OLDEST: usize = 110_000;

/// Whether the library is there and has what is needed.
///
/// # Errors
/// In words, for people.
pub fn find() -> Result<(), String> {
    // SAFETY: loads the library, which runs nothing of it but its own initialisation.
    if !unsafe { sys::is_culib_present() } {
        let mut names = cudarc::get_lib_name_candidates("cublasLt");
        // The others are names that it has on Windows.
        names.retain(|name| !name.contains("Lt64") || cfg!(windows));
        names.dedup();
        return Err(format!("its library was not found: {}", names.join(", ")));
    }
    for name in FUNCTIONS {
        // SAFETY: present, so that it can be loaded; the function is looked up, not called.
        if unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err() {
            return Err(format!("its library has no function {name}"));
        }
    }
    // SAFETY: present, with this function.
    let version = unsafe { sys::cublasLtGetVersion() };
    if version < OLDEST {
        return Err(format!("its library is {}, needed is 11.0 or newer", written(version)));
    }
    Ok(())
}

/// A version as the library numbers it (120804), as `12.8.4`.
fn written(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

fn explain(error: CublasError) -> String {
    format!("its library says {:?}", error.0)
}

/// The opened library. What it is asked is in its device's context.
pub struct Library {
    handle: sys::cublasLtHandle_t,
    stream: Stream,
}

// SAFETY: the documentation lets threads share a handle; the context is made current on each.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Opens it in a stream's context, which must outlive it. Only after [`find`].
    ///
    /// # Errors
    /// What driver or library say.
    pub fn open(stream: Stream) -> Result<Self, String> {
        enter(stream)?;
        Ok(Self { handle: result::create_handle().map_err(explain)?, stream })
    }

    /// As `12.8.4`.
    pub fn version(&self) -> String {
        // SAFETY: loaded, since there is a handle.
        written(unsafe { sys::cublasLtGetVersion() })
    }

    /// The first of the heuristic's algorithms for a product; `bytes` are those of an element of the factors and of
    /// the result: 2 of bf16, 4 of f32.
    ///
    /// # Errors
    /// What the library says, as when it has none.
    pub fn plan(&self, gemm: &ColumnMajor, bytes: [usize; 2], workspace: usize) -> Result<Plan, String> {
        enter(self.stream)?;
        let described = Description::new(gemm, bytes.map(data_type)).map_err(explain)?;
        let preference = Preference::new(workspace).map_err(explain)?;
        let [first, second, result] = described.layouts.each_ref().map(|layout| layout.0);
        // SAFETY: all of them were made above and are alive.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                self.handle,
                described.product,
                first,
                second,
                result,
                result,
                preference.0,
            )
        };
        let algorithm = found.map_err(explain)?.algo;
        Ok(Plan { described, algorithm, beta: if gemm.accumulate { 1.0 } else { 0.0 } })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // Nothing can be done about failures.
        if enter(self.stream).is_ok() {
            // SAFETY: made in `open`, used no more.
            let _ = unsafe { result::destroy_handle(self.handle) };
        }
    }
}

/// Makes the stream's context current on this thread.
fn enter(stream: Stream) -> Result<(), String> {
    // SAFETY: a live device's context, by whoever made the stream known.
    unsafe { ctx::set_current(stream.context) }.map_err(|error| format!("the driver says {error}"))
}

fn data_type(bytes: usize) -> cudaDataType {
    // Of the two types, one alone has this size.
    if bytes == size_of::<f32>() { cudaDataType::CUDA_R_32F } else { cudaDataType::CUDA_R_16BF }
}

/// A product with its algorithm.
pub struct Plan {
    described: Description,
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// What is there already is multiplied by this.
    beta: f32,
}

// SAFETY: descriptions are plain data of the library, read alone once they are made.
unsafe impl Send for Plan {}
// SAFETY: as above.
unsafe impl Sync for Plan {}

impl Plan {
    /// Queues the product; `addresses` are those of first factor, second and result.
    ///
    /// # Errors
    /// What driver or library say.
    ///
    /// # Safety
    /// The addresses are of matrices as the plan has them, multiples of 256; the workspace has as many bytes as the
    /// plan was made with. All stay valid until what is queued in `stream` has run, nothing else writes the result
    /// or the workspace meanwhile, and the stream is of the library's context.
    pub unsafe fn run(
        &self,
        library: &Library,
        addresses: [u64; 3],
        workspace: u64,
        workspace_bytes: usize,
        stream: Stream,
    ) -> Result<(), String> {
        enter(stream)?;
        let alpha = 1.0f32;
        let [first, second, result] = self.described.layouts.each_ref().map(|layout| layout.0);
        let [a, b, c] = addresses.map(|address| ptr::without_provenance_mut::<c_void>(address as usize));
        // SAFETY: the caller's promise; factors are f32 on the host, as the description says by default.
        unsafe {
            result::matmul(
                library.handle,
                self.described.product,
                ptr::from_ref(&alpha).cast(),
                ptr::from_ref(&self.beta).cast(),
                a,
                first,
                b,
                second,
                c,
                result,
                c,
                result,
                &self.algorithm,
                ptr::without_provenance_mut(workspace as usize),
                workspace_bytes,
                stream.stream.cast(),
            )
        }
        .map_err(explain)
    }
}

/// What is multiplied.
struct Description {
    product: sys::cublasLtMatmulDesc_t,
    /// Of first factor, second and result.
    layouts: [Layout; 3],
}

impl Description {
    fn new(gemm: &ColumnMajor, [factors, sum]: [cudaDataType; 2]) -> Result<Self, CublasError> {
        let [first, second, third] = gemm.stored();
        let [a, b, c] = gemm.leading;
        let layouts =
            [Layout::new(factors, first, a)?, Layout::new(factors, second, b)?, Layout::new(sum, third, c)?];
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let product = result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F)?;
        let described = Self { product, layouts };
        let attributes = [Attribute::CUBLASLT_MATMUL_DESC_TRANSA, Attribute::CUBLASLT_MATMUL_DESC_TRANSB];
        for (attribute, transposed) in attributes.into_iter().zip(gemm.transposed) {
            // As the library numbers them: as it is, or transposed.
            let operation = i32::from(transposed);
            // SAFETY: made above; the attribute is an i32, which the call copies.
            unsafe {
                let value = ptr::from_ref(&operation).cast();
                result::set_matmul_desc_attribute(product, attribute, value, size_of::<i32>())?;
            }
        }
        Ok(described)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made in `new`, used no more. Nothing can be done about a failure.
        let _ = unsafe { result::destroy_matmul_desc(self.product) };
    }
}

/// How a matrix is stored.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(
        element: cudaDataType,
        (rows, columns): (usize, usize),
        leading: usize,
    ) -> Result<Self, CublasError> {
        result::create_matrix_layout(element, rows as u64, columns as u64, leading as i64).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made in `new`, used no more. Nothing can be done about a failure.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What algorithms may use.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new(workspace: usize) -> Result<Self, CublasError> {
        let preference = Self(result::create_matmul_pref()?);
        let attribute = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: made above; the attribute is a number of bytes, which the call copies.
        unsafe {
            let value = ptr::from_ref(&workspace).cast();
            result::set_matmul_pref_attribute(preference.0, attribute, value, size_of::<usize>())?;
        }
        Ok(preference)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made in `new`, used no more. Nothing can be done about a failure.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_as_people_know_them() {
        assert_eq!(written(120_804), "12.8.4");
        assert_eq!(written(130_000), "13.0.0");
    }

    /// Where the library is installed, a device or none: what is described to it is in its words.
    #[test]
    fn descriptions_are_taken_where_the_library_is() {
        use super::super::Product;
        if find().is_err() {
            return;
        }
        for choice in 0..4 {
            let [a_transposed, b_transposed] = [1, 2].map(|bit| choice & bit != 0);
            let product = Product { m: 24, n: 40, k: 32, a_transposed, b_transposed, accumulate: false };
            let types = [cudaDataType::CUDA_R_16BF, cudaDataType::CUDA_R_32F];
            assert!(Description::new(&product.column_major(), types).is_ok(), "{product:?}");
        }
        assert!(Preference::new(64 << 20).is_ok());
    }

    /// Whether it is here or not, asking does not panic.
    #[test]
    fn a_missing_library_is_named() {
        if let Err(reason) = find() {
            assert!(
                reason.contains("libcublasLt.so, libcublasLt.so.") || cfg!(not(target_os = "linux")),
                "{reason}"
            );
        }
    }
}
