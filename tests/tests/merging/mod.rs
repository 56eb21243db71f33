//! Model folders merged by name: `cpift_model::merge`.

mod adapters;
mod configurations;
mod cores;
mod exporting;
mod folders;
mod low_rank;
mod numbers;
mod stopped;
mod sweeping;
mod vocabularies;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use cpift_engine::Device;
use cpift_model::Result;
use cpift_model::merge::{Merge, MergeReport, MergeRequest, Method, Parameters};
use cpift_tests::model_folders::{self, Stored};

/// A merge of models in a folder, by their names there.
fn request(folder: &Path, method: Method, base: Option<&str>, models: &[(&str, f64)]) -> MergeRequest {
    let models = models.iter().map(|(model, weight)| (folder.join(model), *weight)).collect();
    MergeRequest::of_models(method, base.map(|base| folder.join(base)), models, Parameters::default())
}

/// Merges into the folder `out` beside the models.
fn merge_into(request: &MergeRequest, out: &Path, threads: usize) -> Result<MergeReport> {
    let device = Device::cpu(NonZeroUsize::new(threads)).unwrap();
    Merge::new(request)?.run(&device, out, false, &AtomicBool::new(false), &mut |_| {})
}

/// Merges, and reads what came out; the folder must not be there.
fn merged(request: &MergeRequest) -> HashMap<String, Stored> {
    let out = out_of(request);
    merge_into(request, &out, 2).unwrap();
    let tensors = model_folders::read(&out);
    std::fs::remove_dir_all(out).unwrap();
    tensors
}

fn out_of(request: &MergeRequest) -> PathBuf {
    request.models[0].with_file_name("out")
}

/// What refuses a merge; nothing is then left beside the models.
fn refused(request: &MergeRequest) -> String {
    let out = out_of(request);
    let error = merge_into(request, &out, 2).expect_err("the merge is refused");
    assert!(error.is_input(), "{error}");
    let entries = std::fs::read_dir(out.parent().unwrap()).unwrap();
    for entry in entries {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name != "out" && !name.starts_with('.'), "{name} is left of: {error}");
    }
    error.to_string()
}
