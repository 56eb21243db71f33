//! Tensor maps: what TMA is told of a matrix, in a form of this library's own.

use std::ffi::c_void;

use cpift_kernels::tensor_map::{GRAIN, SWIZZLE_BYTES, TensorMapLayout};
use cudarc::driver::sys::{
    CUresult, CUtensorMap, CUtensorMapDataType as Type, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle, cuuint32_t, cuuint64_t,
};

use crate::launch::write_tiles;
use crate::state::{call, violation};

/// # Safety
/// As CUDA's reference says: arrays of as many numbers as there are dimensions, of strides one less.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut CUtensorMap,
    element: Type,
    rank: cuuint32_t,
    address: *mut c_void,
    sizes: *const cuuint64_t,
    strides: *const cuuint64_t,
    tile: *const cuuint32_t,
    every: *const cuuint32_t,
    interleave: CUtensorMapInterleave,
    swizzle: CUtensorMapSwizzle,
    _promotion: CUtensorMapL2promotion,
    fill: CUtensorMapFloatOOBfill,
) -> CUresult {
    call("cuTensorMapEncodeTiled", || {
        let refuse =
            |what: String| Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, &format!("tensor map: {what}")));
        let element_bytes = match element {
            Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 => 2,
            Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32 => 4,
            other => return refuse(format!("elements {other:?} are not known here")),
        };
        if rank != 2
            || interleave != CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE
            || swizzle != CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B
            || fill != CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
        {
            return refuse("only matrices in chunks swizzled within 128 bytes are known here".to_owned());
        }
        if map.is_null() || !(map as usize).is_multiple_of(align_of::<CUtensorMap>()) {
            return refuse(format!("the map itself at {map:?}, which is not aligned to 64 bytes"));
        }
        // SAFETY: as many numbers as dimensions, by the caller's promise.
        let (sizes, tile, every, stride) = unsafe {
            (*sizes.cast::<[u64; 2]>(), *tile.cast::<[u32; 2]>(), *every.cast::<[u32; 2]>(), *strides)
        };
        let [columns, rows] = sizes;
        let [box_columns, box_rows] = tile;
        let matrix =
            TensorMapLayout { address: address as u64, length: 0, element_bytes, rows, columns, box_rows };
        if let Err(error) = matrix.check() {
            return refuse(error.to_string());
        }
        if !matrix.address.is_multiple_of(GRAIN) || matrix.address == 0 {
            return refuse(format!("the address {address:?}"));
        }
        if stride != matrix.row_bytes() || every != [1, 1] || box_columns * element_bytes != SWIZZLE_BYTES {
            return refuse(format!("a stride of {stride}, tiles {box_columns} wide, every {every:?}"));
        }
        // SAFETY: not null and aligned; memory for a map, by the caller's promise.
        unsafe { (*map).opaque = write_tiles(&matrix) };
        Ok(())
    })
}
