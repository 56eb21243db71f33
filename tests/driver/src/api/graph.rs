//! Graphs.

use std::ffi::{c_uint, c_ulonglong};
use std::slice;

use cudarc::driver::sys::{
    CUDA_KERNEL_NODE_PARAMS, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, CUcontext, CUgraph, CUgraphExec,
    CUgraphNode, CUmemorytype, CUresult, CUstream,
};

use super::module::arguments_of;
use super::{give, handle};
use crate::graph::{Executable, Graph, Node};
use crate::launch::{Geometry, check_geometry};
use crate::settings::Failure;
use crate::state::{Outcome, SETTINGS, call, known, known_mut, missing, queue, state, violation};

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphCreate(graph: *mut CUgraph, flags: c_uint) -> CUresult {
    call("cuGraphCreate", || {
        if flags != 0 {
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "a graph with flags"));
        }
        let mut state = state();
        let context = state.context()?;
        let number = state.handle();
        state.graphs.insert(number, Graph { context, nodes: Vec::new() });
        // SAFETY: the caller's promise.
        unsafe { give(graph, handle(number)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphDestroy(graph: CUgraph) -> CUresult {
    call("cuGraphDestroy", || {
        let number = graph as usize;
        state().graphs.remove(&number).map(drop).ok_or_else(|| missing(number, "graph"))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphAddKernelNode_v2(
    node: *mut CUgraphNode,
    graph: CUgraph,
    behind: *const CUgraphNode,
    count: usize,
    parameters: *const CUDA_KERNEL_NODE_PARAMS,
) -> CUresult {
    call("cuGraphAddKernelNode_v2", || {
        // SAFETY: the caller's promise.
        unsafe { add(node, graph, behind, count, launch_node(parameters)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphAddMemsetNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    behind: *const CUgraphNode,
    count: usize,
    parameters: *const CUDA_MEMSET_NODE_PARAMS,
    context: CUcontext,
) -> CUresult {
    call("cuGraphAddMemsetNode", || {
        state().own(context as usize, "memset node")?;
        // SAFETY: the caller's promise.
        unsafe { add(node, graph, behind, count, set_node(parameters)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphAddMemcpyNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    behind: *const CUgraphNode,
    count: usize,
    parameters: *const CUDA_MEMCPY3D,
    context: CUcontext,
) -> CUresult {
    call("cuGraphAddMemcpyNode", || {
        state().own(context as usize, "memcpy node")?;
        // SAFETY: the caller's promise.
        unsafe { add(node, graph, behind, count, copy_node(parameters)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut CUgraphExec,
    graph: CUgraph,
    flags: c_ulonglong,
) -> CUresult {
    call("cuGraphInstantiateWithFlags", || {
        if flags != 0 || SETTINGS.failures.contains(&Failure::Graph) {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let mut state = state();
        let found = known(&state.graphs, graph as usize, "graph")?;
        state.own(found.context, "graph")?;
        let ready = Executable { context: found.context, graph: graph as usize, nodes: found.nodes.clone() };
        let number = state.handle();
        state.executables.insert(number, ready);
        // SAFETY: the caller's promise.
        unsafe { give(executable, handle(number)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecDestroy(executable: CUgraphExec) -> CUresult {
    call("cuGraphExecDestroy", || {
        let number = executable as usize;
        state().executables.remove(&number).map(drop).ok_or_else(|| missing(number, "graph made ready"))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    executable: CUgraphExec,
    node: CUgraphNode,
    parameters: *const CUDA_KERNEL_NODE_PARAMS,
) -> CUresult {
    call("cuGraphExecKernelNodeSetParams_v2", || {
        // SAFETY: the caller's promise.
        let node_now = unsafe { launch_node(parameters) }?;
        change(executable, node, node_now)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecMemsetNodeSetParams(
    executable: CUgraphExec,
    node: CUgraphNode,
    parameters: *const CUDA_MEMSET_NODE_PARAMS,
    context: CUcontext,
) -> CUresult {
    call("cuGraphExecMemsetNodeSetParams", || {
        state().own(context as usize, "memset node")?;
        // SAFETY: the caller's promise.
        change(executable, node, unsafe { set_node(parameters)? })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecMemcpyNodeSetParams(
    executable: CUgraphExec,
    node: CUgraphNode,
    parameters: *const CUDA_MEMCPY3D,
    context: CUcontext,
) -> CUresult {
    call("cuGraphExecMemcpyNodeSetParams", || {
        state().own(context as usize, "memcpy node")?;
        // SAFETY: the caller's promise.
        change(executable, node, unsafe { copy_node(parameters)? })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphLaunch(executable: CUgraphExec, stream: CUstream) -> CUresult {
    call("cuGraphLaunch", || {
        let (stream, work) = {
            let mut state = state();
            state.counts.graph_launches += 1;
            let ready = known(&state.executables, executable as usize, "graph made ready")?;
            state.own(ready.context, "graph made ready")?;
            let work =
                ready.nodes.iter().map(|(_, node)| state.work_of(node)).collect::<Outcome<Vec<_>>>()?;
            (state.stream(stream as usize)?, work)
        };
        queue(&stream, work)
    })
}

/// Adds a node, and gives out its handle.
///
/// # Safety
/// A place for the handle, and as many nodes before as said.
unsafe fn add(
    place: *mut CUgraphNode,
    graph: CUgraph,
    behind: *const CUgraphNode,
    count: usize,
    node: Node,
) -> Outcome {
    let before: Vec<usize> = match count {
        0 => Vec::new(),
        // SAFETY: the caller's promise.
        _ => unsafe { slice::from_raw_parts(behind, count) }.iter().map(|&node| node as usize).collect(),
    };
    let mut state = state();
    let number = state.handle();
    let context = state.context()?;
    let graph = known_mut(&mut state.graphs, graph as usize, "graph")?;
    if graph.context != context {
        return Err(violation(CUresult::CUDA_ERROR_INVALID_HANDLE, "a graph of another context"));
    }
    graph.add(number, &before, node)?;
    // SAFETY: the caller's promise.
    unsafe { give(place, handle(number)) }
}

/// Changes a node of a ready graph, for launches from now on.
fn change(executable: CUgraphExec, node: CUgraphNode, new: Node) -> Outcome {
    let mut state = state();
    state.counts.graph_updates += 1;
    let ready = known_mut(&mut state.executables, executable as usize, "graph made ready")?;
    let graph = ready.graph;
    let Some((_, old)) = ready.nodes.iter_mut().find(|(handle, _)| *handle == node as usize) else {
        return Err(missing(node as usize, "node of this graph"));
    };
    if !old.is_like(&new) {
        return Err(violation(
            CUresult::CUDA_ERROR_INVALID_VALUE,
            "a node is changed to one of another kind",
        ));
    }
    if !SETTINGS.failures.contains(&Failure::Update) {
        *old = new;
    }
    // A node's handle is the graph's, which must still be there.
    known(&state.graphs, graph, "graph of a node").map(drop)
}

/// # Safety
/// Null, or parameters whose pointers are as [`arguments_of`] asks.
unsafe fn launch_node(parameters: *const CUDA_KERNEL_NODE_PARAMS) -> Outcome<Node> {
    // SAFETY: null or parameters, by the caller's promise.
    let given = unsafe { parameters.as_ref() }.ok_or_else(no_parameters)?;
    if !given.kern.is_null() || !given.ctx.is_null() {
        return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "a node with a kernel and a function"));
    }
    let geometry = Geometry {
        function: given.func as usize,
        grid: [given.gridDimX, given.gridDimY, given.gridDimZ],
        block: [given.blockDimX, given.blockDimY, given.blockDimZ],
        shared: given.sharedMemBytes,
    };
    // SAFETY: the caller's promise.
    let values = unsafe { arguments_of(geometry.function, given.kernelParams, given.extra) }?;
    check_geometry(known(&state().functions, geometry.function, "function")?, &geometry)?;
    Ok(Node::Launch { geometry, values })
}

/// # Safety
/// Null, or parameters.
unsafe fn set_node(parameters: *const CUDA_MEMSET_NODE_PARAMS) -> Outcome<Node> {
    // SAFETY: null or parameters, by the caller's promise.
    let given = unsafe { parameters.as_ref() }.ok_or_else(no_parameters)?;
    if given.elementSize != 1 || given.height != 1 || given.width == 0 || given.value > 0xff {
        return Err(violation(
            CUresult::CUDA_ERROR_INVALID_VALUE,
            "memory is set other than byte by byte in a row",
        ));
    }
    Ok(Node::Set { to: given.dst, byte: given.value as u8, bytes: given.width })
}

/// # Safety
/// Null, or parameters.
unsafe fn copy_node(parameters: *const CUDA_MEMCPY3D) -> Outcome<Node> {
    // SAFETY: null or parameters, by the caller's promise.
    let given = unsafe { parameters.as_ref() }.ok_or_else(no_parameters)?;
    let by_address = CUmemorytype::CU_MEMORYTYPE_UNIFIED;
    let row = given.Height == 1 && given.Depth == 1 && given.WidthInBytes > 0;
    let at_start = [
        given.srcXInBytes,
        given.srcY,
        given.srcZ,
        given.srcLOD,
        given.dstXInBytes,
        given.dstY,
        given.dstZ,
        given.dstLOD,
    ];
    let reserved = given.reserved0.is_null() && given.reserved1.is_null();
    if given.srcMemoryType != by_address
        || given.dstMemoryType != by_address
        || !row
        || !reserved
        || at_start != [0; 8]
    {
        return Err(violation(
            CUresult::CUDA_ERROR_INVALID_VALUE,
            "a copy other than in a row between addresses",
        ));
    }
    Ok(Node::Copy { to: given.dstDevice, from: given.srcDevice, bytes: given.WidthInBytes })
}

fn no_parameters() -> CUresult {
    violation(CUresult::CUDA_ERROR_INVALID_VALUE, "a node without parameters")
}
