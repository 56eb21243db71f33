//! The usual merges: against a plain reading of their papers, and against mergekit's results.

use cpift_engine::ops::merge::{Terms, add_update, elected_signs, finish, random_mask};
use cpift_engine::ops::slerp;
use cpift_engine::{Buffer, Device, Layout, Mask};
use cpift_model::recipe::{Backbone, FuseSettings};
use cpift_model::stages::fuse::{Core, fuse};
use cpift_model::stages::models::Buffers;
use cpift_tests::devices::devices;
use cpift_tests::flat::{brute_force_top_k, layout, random_mask as ragged_mask};
use cpift_tests::folders;
use cpift_tests::models::MemoryModels;
use cpift_tests::numeric::{assert_close, random};
use cpift_tests::stand_in;
use serde_json::Value;

const SEED: u64 = 23;

/// Models near a random base.
fn models(layout: &Layout, tasks: u64) -> MemoryModels {
    let base = random(1, layout.len());
    let near = |update: Vec<f32>| base.iter().zip(update).map(|(base, update)| base + 0.3 * update).collect();
    let tasks = (0..tasks).map(|task| near(random(2 + task, layout.len()))).collect();
    MemoryModels { base, tasks, importance: Vec::new() }
}

/// The backbone alone, from buffers that hold nothing useful.
fn merged(layout: &Layout, models: &mut MemoryModels, settings: FuseSettings, seed: u64) -> Vec<f32> {
    let device = Device::cpu(std::num::NonZeroUsize::new(2)).unwrap();
    let poisoned = || Buffer::from_slice(&device, &vec![f32::NAN; layout.len()]).unwrap();
    let (mut backbone, mut operand, mut base) = (poisoned(), poisoned(), poisoned());
    let buffers =
        Buffers { backbone: backbone.view_mut(), operand: operand.view_mut(), base: base.view_mut() };
    let core = |task| Core {
        task: format!("task {task}"),
        mask: Mask::zeros(layout.len()),
        thresholds: vec![1.0; layout.segments().len()],
    };
    let cores: Vec<Core> = (0..models.tasks.len()).map(core).collect();
    let settings = FuseSettings { transplant: false, ..settings };
    fuse(&device, layout, &settings, &cores, models, seed, buffers).unwrap();
    backbone.to_vec().unwrap()
}

fn update(models: &MemoryModels, task: usize, j: usize) -> f64 {
    f64::from(models.tasks[task][j]) - f64::from(models.base[j])
}

/// The mean of the updates that share the sign of their sum.
fn elected_mean(updates: &[f64]) -> f64 {
    let up = updates.iter().sum::<f64>() >= 0.0;
    let agreeing: Vec<f64> =
        updates.iter().copied().filter(|update| if up { *update > 0.0 } else { *update < 0.0 }).collect();
    agreeing.iter().sum::<f64>() / (agreeing.len() as f64).max(1.0)
}

fn parameters(layout: &Layout) -> Vec<usize> {
    layout.segments().iter().flat_map(|segment| segment.range()).collect()
}

#[track_caller]
fn assert_merge(
    what: &str,
    layout: &Layout,
    models: &MemoryModels,
    actual: &[f32],
    expected: impl Fn(usize) -> f64,
) {
    let indices = parameters(layout);
    let actual: Vec<f32> = indices.iter().map(|&j| actual[j]).collect();
    let expected: Vec<f64> = indices.iter().map(|&j| f64::from(models.base[j]) + expected(j)).collect();
    assert_close(what, &actual, &expected, 1e-6);
}

#[test]
fn sums_of_updates_are_what_the_papers_say() {
    let layout = layout(&[70, 2, 64, 333]);
    let mut models = models(&layout, 4);
    let all = |models: &MemoryModels, j| (0..4).map(|task| update(models, task, j)).collect::<Vec<f64>>();
    let with = |backbone| FuseSettings { backbone, scale: 0.7, density: 0.2, ..FuseSettings::default() };

    let actual = merged(&layout, &mut models, with(Backbone::Average), SEED);
    assert_merge("average", &layout, &models, &actual, |j| all(&models, j).iter().sum::<f64>() / 4.0);

    let actual = merged(&layout, &mut models, with(Backbone::Arithmetic), SEED);
    assert_merge("arithmetic", &layout, &models, &actual, |j| 0.7 * all(&models, j).iter().sum::<f64>());

    let actual = merged(&layout, &mut models, with(Backbone::Ties), SEED);
    let largest = |task: usize| -> Vec<usize> {
        let of_segment = |index: usize| {
            let k = (layout.segments()[index].length as f64 * 0.2).floor().max(1.0) as usize;
            brute_force_top_k(
                &layout,
                k,
                |segment| segment == index,
                |j| (models.tasks[task][j] - models.base[j]).abs(),
            )
        };
        (0..layout.segments().len()).flat_map(of_segment).collect()
    };
    let kept: Vec<Vec<usize>> = (0..4).map(largest).collect();
    assert_merge("ties", &layout, &models, &actual, |j| {
        let trimmed: Vec<f64> =
            (0..4).map(|task| if kept[task].contains(&j) { update(&models, task, j) } else { 0.0 }).collect();
        0.7 * elected_mean(&trimmed)
    });
}

#[test]
fn dare_keeps_a_random_share_of_every_update_and_scales_it_up() {
    let layout = layout(&[700, 2, 64, 3330]);
    let mut models = models(&layout, 1);
    for backbone in [Backbone::Dare, Backbone::DareTies] {
        let settings = FuseSettings { backbone, density: 0.25, ..FuseSettings::default() };
        let first = merged(&layout, &mut models, settings.clone(), SEED);
        let kept = |j: usize| first[j] != models.base[j];
        let count = parameters(&layout).into_iter().filter(|&j| kept(j)).count();
        // 1,024 expected of 4,096; five standard deviations are 139.
        assert!(count.abs_diff(1024) < 139, "{count}");
        assert_merge("dare", &layout, &models, &first, |j| {
            if kept(j) { update(&models, 0, j) / 0.25 } else { 0.0 }
        });
        assert_eq!(merged(&layout, &mut models, settings.clone(), SEED), first);
        assert_ne!(merged(&layout, &mut models, settings, SEED + 1), first);
    }
}

#[test]
fn random_masks_follow_from_seed_and_coordinate_alone() {
    let (short, long) = (layout(&[100, 300]), layout(&[100, 300, 500]));
    let (first, second) = (random_mask(&short, 0, 0.3, 5).unwrap(), random_mask(&long, 0, 0.3, 5).unwrap());
    assert!(parameters(&short).into_iter().all(|j| first.get(j) == second.get(j)));
    assert_eq!(first.indices().filter(|j| (100..128).contains(j)).count(), 0, "padding is in no mask");
    let part = random_mask(&layout(&[300]), 128, 0.3, 5).unwrap();
    assert!((0..300).all(|j| part.get(j) == first.get(128 + j)), "a part of the layout");
    assert_eq!(random_mask(&short, 0, 1.0, 5).unwrap().count(), 400);
    assert_eq!(random_mask(&short, 0, 0.0, 5).unwrap().count(), 0);
    assert!(random_mask(&short, 0, 1.5, 5).is_err());
}

#[test]
fn every_device_adds_and_finishes_alike() {
    let layout = layout(&[70, 1, 64, 333]);
    let (model, base) = (random(1, layout.len()), random(2, layout.len()));
    let (start, counted) = (random(3, layout.len()), vec![2.0; layout.len()]);
    let (kept, signs) = (ragged_mask(&layout, 4, 0.5), ragged_mask(&layout, 5, 0.5));
    for device in devices() {
        let buffer = |values: &[f32]| Buffer::from_slice(&device, values).unwrap();
        let (mut sum, mut counts) = (buffer(&start), buffer(&counted));
        let terms = Terms { scale: 0.5, kept: Some(&kept), signs: Some(&signs) };
        let (model_on, base_on) = (buffer(&model), buffer(&base));
        add_update(&device, sum.view_mut(), Some(counts.view_mut()), model_on.view(), base_on.view(), &terms)
            .unwrap();
        let added = |j: usize| kept.get(j) && (model[j] > base[j]) == signs.get(j) && model[j] != base[j];
        let difference = |j: usize| f64::from(model[j]) - f64::from(base[j]);
        let expected: Vec<f64> = (0..layout.len())
            .map(|j| f64::from(start[j]) + if added(j) { 0.5 * difference(j) } else { 0.0 })
            .collect();
        assert_close("sum", &sum.to_vec().unwrap(), &expected, 1e-6);
        let expected: Vec<f64> = (0..layout.len()).map(|j| if added(j) { 3.0 } else { 2.0 }).collect();
        assert_close("counts", &counts.to_vec().unwrap(), &expected, 0.0);

        let sums = sum.to_vec().unwrap();
        let elected = elected_signs(&device, &layout, sum.view()).unwrap();
        let expected: Vec<usize> = parameters(&layout).into_iter().filter(|&j| sums[j] >= 0.0).collect();
        assert_eq!(elected.indices().collect::<Vec<_>>(), expected);

        finish(&device, sum.view_mut(), Some(counts.view()), base_on.view(), 0.7).unwrap();
        let expected: Vec<f64> = (0..layout.len())
            .map(|j| {
                let count = if added(j) { 3.0 } else { 2.0 };
                f64::from(base[j]) + 0.7 * f64::from(sums[j]) / count
            })
            .collect();
        assert_close("finished", &sum.to_vec().unwrap(), &expected, 1e-6);
    }
}

/// What mergekit made, as flat parameters.
struct Golden {
    layout: Layout,
    content: Value,
}

impl Golden {
    fn read() -> Self {
        let path = folders::tests().join("golden/merges.json");
        let content: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let lengths: Vec<usize> = content["base"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tensor| tensor.as_array().unwrap().len())
            .collect();
        Self { layout: layout(&lengths), content }
    }

    fn flat(&self, tensors: &Value) -> Vec<f32> {
        let mut flat = vec![0.0; self.layout.len()];
        for (segment, tensor) in self.layout.segments().iter().zip(tensors.as_array().unwrap()) {
            for (target, value) in flat[segment.range()].iter_mut().zip(tensor.as_array().unwrap()) {
                *target = value.as_f64().unwrap() as f32;
            }
        }
        flat
    }

    fn models(&self) -> MemoryModels {
        let tasks = self.content["models"].as_array().unwrap();
        MemoryModels {
            base: self.flat(&self.content["base"]),
            tasks: tasks.iter().map(|model| self.flat(model)).collect(),
            importance: Vec::new(),
        }
    }

    /// The coordinates of a model's update that mergekit did not drop.
    fn mask(&self, name: &str, model: usize, models: usize) -> Mask {
        let drawn = self.content[name].as_array().unwrap();
        let mut mask = Mask::zeros(self.layout.len());
        for (index, segment) in self.layout.segments().iter().enumerate() {
            for (j, kept) in segment.range().zip(drawn[index * models + model].as_array().unwrap()) {
                mask.set(j, kept.as_u64() == Some(1));
            }
        }
        mask
    }

    #[track_caller]
    fn assert(&self, name: &str, actual: &[f32]) {
        let expected = self.flat(&self.content[name]);
        for j in parameters(&self.layout) {
            let error = (actual[j] - expected[j]).abs();
            assert!(error <= 1e-6, "{name}[{j}]: {}, mergekit has {}", actual[j], expected[j]);
        }
    }
}

#[test]
fn merges_agree_with_mergekit() {
    let golden = Golden::read();
    let density = golden.content["density"].as_f64().unwrap();
    for (backbone, name, scale) in [
        (Backbone::Average, "average", 1.0),
        (Backbone::Arithmetic, "arithmetic", 0.4),
        (Backbone::Ties, "ties", 0.7),
    ] {
        let settings = FuseSettings { backbone, scale, density, ..FuseSettings::default() };
        golden.assert(name, &merged(&golden.layout, &mut golden.models(), settings, SEED));
    }
}

#[test]
fn dare_agrees_with_mergekit_where_the_same_coordinates_are_dropped() {
    let golden = Golden::read();
    let (models, layout) = (golden.models(), &golden.layout);
    let scale = 1.0 / golden.content["density"].as_f64().unwrap();
    let device = Device::cpu(std::num::NonZeroUsize::new(2)).unwrap();
    let buffer = |values: &[f32]| Buffer::from_slice(&device, values).unwrap();
    let base = buffer(&models.base);
    let sum_of = |name: &str, signs: Option<&Mask>| {
        let mut sum = Buffer::zeros(&device, layout.len()).unwrap();
        let mut counts = Buffer::zeros(&device, layout.len()).unwrap();
        for (index, model) in models.tasks.iter().enumerate() {
            let kept = golden.mask(name, index, models.tasks.len());
            let terms = Terms { scale, kept: Some(&kept), signs };
            let (model, base) = (buffer(model), base.view());
            add_update(&device, sum.view_mut(), Some(counts.view_mut()), model.view(), base, &terms).unwrap();
        }
        (sum, counts)
    };
    let (mut dare, _) = sum_of("dare_masks", None);
    finish(&device, dare.view_mut(), None, base.view(), 0.4).unwrap();
    golden.assert("dare", &dare.to_vec().unwrap());

    let (trimmed, _) = sum_of("dare-ties_masks", None);
    let signs = elected_signs(&device, layout, trimmed.view()).unwrap();
    let (mut joined, counts) = sum_of("dare-ties_masks", Some(&signs));
    // mergekit divides by the weights of what is left, here 1/density each.
    finish(&device, joined.view_mut(), Some(counts.view()), base.view(), 1.0 / scale).unwrap();
    golden.assert("dare-ties", &joined.to_vec().unwrap());
}

#[test]
fn slerp_agrees_with_mergekit() {
    let golden = Golden::read();
    let models = golden.models();
    let device = Device::cpu(std::num::NonZeroUsize::new(2)).unwrap();
    let mut backbone = Buffer::from_slice(&device, &models.tasks[0]).unwrap();
    let other = Buffer::from_slice(&device, &models.tasks[1]).unwrap();
    let options = slerp::Options { weight: 0.3, ..slerp::Options::default() };
    slerp::slerp(&device, &golden.layout, backbone.view_mut(), other.view(), &options).unwrap();
    golden.assert("slerp", &backbone.to_vec().unwrap());
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &["every_device"]);
}
