//! Arguments as the driver takes them; matrices to copy tiles from become tensor maps.
//!
//! A tensor map is a kernel's parameter, by value: the driver copies it with the other arguments, into a graph's
//! node too. So there is no map in device memory to keep alive and to make known to TMA, and none to
//! look up; encoding one is arithmetic on the host, once a launch, and none when a graph is replayed. Not yet run on
//! hardware.

use std::ffi::c_void;
use std::ptr;

use cpift_kernels::launch::Argument;
use cpift_kernels::tensor_map::TensorMapLayout;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};

/// Pointers to arguments. The driver copies what they point to.
pub struct Parameters<'a> {
    /// One per argument.
    pub pointers: Vec<*mut c_void>,
    /// What some of them point to.
    _maps: Vec<CUtensorMap>,
    _arguments: &'a [Argument],
}

impl<'a> Parameters<'a> {
    /// # Errors
    /// A matrix that the driver makes no tensor map of.
    pub fn new(arguments: &'a [Argument]) -> Result<Self, DriverError> {
        let matrices = arguments.iter().filter_map(|argument| match argument {
            Argument::TensorMap(matrix) => Some(matrix),
            _ => None,
        });
        let maps = matrices.map(encode).collect::<Result<Vec<CUtensorMap>, DriverError>>()?;
        let mut next_map = maps.iter();
        let mut pointer = |argument: &Argument| match argument {
            Argument::Buffer { address, .. } => ptr::from_ref(address).cast_mut().cast(),
            Argument::U32(value) => ptr::from_ref(value).cast_mut().cast(),
            Argument::U64(value) => ptr::from_ref(value).cast_mut().cast(),
            Argument::F32(value) => ptr::from_ref(value).cast_mut().cast(),
            Argument::F64(value) => ptr::from_ref(value).cast_mut().cast(),
            Argument::TensorMap(_) => next_map.next().map_or(ptr::null(), ptr::from_ref).cast_mut().cast(),
        };
        let pointers = arguments.iter().map(&mut pointer).collect();
        Ok(Self { pointers, _maps: maps, _arguments: arguments })
    }
}

/// The tensor map of a matrix of bf16 or f32: rows of a tile are 128 bytes, swizzled; what is outside is zero.
fn encode(matrix: &TensorMapLayout) -> Result<CUtensorMap, DriverError> {
    let mut map = CUtensorMap { opaque: [0; 16] };
    // The fastest dimension first; its stride is that of elements.
    let sizes = [matrix.columns, matrix.rows];
    let strides = [matrix.row_bytes()];
    let tile = [matrix.box_columns(), matrix.box_rows];
    let every = [1, 1];
    let kind = match matrix.element_bytes {
        2 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        4 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        _ => return Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_SUPPORTED)),
    };
    // SAFETY: writes the map; reads arrays of as many numbers as there are dimensions, one less for strides. The
    // address is not accessed.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map,
            kind,
            2,
            ptr::without_provenance_mut(matrix.address as usize),
            sizes.as_ptr(),
            strides.as_ptr(),
            tile.as_ptr(),
            every.as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()?;
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_has_a_pointer_to_its_value() {
        let arguments = [Argument::U32(7), Argument::Buffer { address: 256, length: 3 }, Argument::F64(0.5)];
        let parameters = Parameters::new(&arguments).unwrap();
        // SAFETY: pointers to the values above.
        let (number, address, half) = unsafe {
            let [a, b, c] = parameters.pointers[..] else { panic!("three arguments") };
            (*a.cast::<u32>(), *b.cast::<u64>(), *c.cast::<f64>())
        };
        assert_eq!((number, address, half), (7, 256, 0.5));
    }
}
