//! Fusion of task models against a brute-force reading of docs/algorithm.md's stage 3, coordinate by coordinate.

use cpift_engine::{Buffer, Device, Layout, Mask};
use cpift_model::progress::FusionReport;
use cpift_model::recipe::{Backbone, Conflict, FoldWeight, FuseSettings, SlerpSpace};
use cpift_model::stages::fuse::{Core, fuse_parts};
use cpift_model::stages::models::Buffers;
use cpift_model::stages::pieces::{LayoutPart, parts, parts_of};
use cpift_tests::flat::{layout, random_mask, slerp_oracle};
use cpift_tests::models::MemoryModels;
use cpift_tests::numeric::random;

/// Of the random backbones.
const SEED: u64 = 23;

/// Models in memory.
struct Models {
    layout: Layout,
    memory: MemoryModels,
    cores: Vec<Core>,
}

impl Models {
    /// `tasks` random models near a random base, cores of a third of all coordinates: many conflicts.
    fn new(seed: u64, tasks: usize) -> Self {
        let layout = layout(&[70, 1, 64, 333]);
        let values = |purpose: u64| random(seed * 100 + purpose, layout.len());
        let base = values(0);
        let near =
            |update: Vec<f32>| base.iter().zip(update).map(|(base, update)| base + 0.3 * update).collect();
        let core = |task: usize| Core {
            task: format!("task {task}"),
            mask: random_mask(&layout, seed * 100 + 50 + task as u64, 0.33),
            thresholds: (0..layout.segments().len()).map(|segment| 0.1 + (segment + task) as f32).collect(),
        };
        Self {
            memory: MemoryModels {
                base: base.clone(),
                tasks: (0..tasks).map(|task| near(values(1 + task as u64))).collect(),
                importance: (0..tasks).map(|task| values(20 + task as u64)).collect(),
            },
            cores: (0..tasks).map(core).collect(),
            layout,
        }
    }

    fn fuse(&mut self, settings: &FuseSettings) -> (Vec<f32>, FusionReport) {
        self.fuse_in_parts(settings, &parts(&self.layout).unwrap())
    }

    fn fuse_in_parts(&mut self, settings: &FuseSettings, parts: &[LayoutPart]) -> (Vec<f32>, FusionReport) {
        let device = Device::cpu(std::num::NonZeroUsize::new(2)).unwrap();
        let poisoned = || Buffer::from_slice(&device, &vec![f32::NAN; self.layout.len()]).unwrap();
        let (mut backbone, mut operand, mut base) = (poisoned(), poisoned(), poisoned());
        let buffers =
            Buffers { backbone: backbone.view_mut(), operand: operand.view_mut(), base: base.view_mut() };
        let report =
            fuse_parts(&device, parts, settings, &self.cores, &mut self.memory, SEED, buffers).unwrap();
        (backbone.to_vec().unwrap(), report)
    }

    /// Tasks whose core holds coordinate `j`.
    fn owners(&self, j: usize) -> Vec<usize> {
        (0..self.cores.len()).filter(|&task| self.cores[task].mask.get(j)).collect()
    }

    /// What a coordinate that several tasks claim becomes.
    fn conflict(&self, j: usize, segment: usize, rule: Conflict) -> f64 {
        let owners = self.owners(j);
        let value = |task: usize| f64::from(self.memory.tasks[task][j]);
        let mean = |tasks: &[usize]| tasks.iter().map(|&task| value(task)).sum::<f64>() / tasks.len() as f64;
        let update = |task: usize| f64::from(self.memory.tasks[task][j] - self.memory.base[j]);
        match rule {
            Conflict::Last => value(owners[owners.len() - 1]),
            Conflict::Mean => mean(&owners),
            Conflict::Max => {
                let relative = |task: usize| {
                    self.memory.importance[task][j].abs() / self.cores[task].thresholds[segment]
                };
                let best = owners
                    .iter()
                    .copied()
                    .reduce(|best, task| if relative(task) > relative(best) { task } else { best });
                value(best.unwrap())
            }
            Conflict::Sign => {
                let (up, down): (Vec<usize>, Vec<usize>) =
                    owners.iter().partition(|&&task| update(task) > 0.0);
                let total: f64 = owners.iter().map(|&task| update(task)).sum();
                let ups_win = up.len() > down.len() || (up.len() == down.len() && total > 0.0);
                mean(if ups_win { &up } else { &down })
            }
        }
    }

    /// The fold over the tasks on the coordinates of one tensor that no core holds.
    fn fold(&self, coordinates: &[usize], settings: &FuseSettings) -> Vec<f64> {
        let delta = settings.space == SlerpSpace::Delta;
        let origin = |j: usize| if delta { f64::from(self.memory.base[j]) } else { 0.0 };
        let vector = |task: usize| {
            coordinates
                .iter()
                .map(|&j| f64::from(self.memory.tasks[task][j]) - origin(j))
                .collect::<Vec<f64>>()
        };
        let mut folded = vector(0);
        for task in 1..self.memory.tasks.len() {
            let weight = match settings.weight {
                FoldWeight::Running => 1.0 / (task + 1) as f64,
                FoldWeight::Constant(weight) => weight,
            };
            folded = slerp_oracle(&folded, &vector(task), weight).1;
        }
        folded.iter().zip(coordinates).map(|(value, &j)| value + origin(j)).collect()
    }
}

fn assert_near(actual: f32, expected: f64, what: &str) {
    assert!((f64::from(actual) - expected).abs() < 1e-5, "{what}: {actual}, expected {expected}");
}

#[test]
fn every_coordinate_becomes_what_the_algorithm_says() {
    for seed in 0..4 {
        for (space, weight) in [
            (SlerpSpace::Weights, FoldWeight::Running),
            (SlerpSpace::Delta, FoldWeight::Running),
            (SlerpSpace::Weights, FoldWeight::Constant(0.3)),
        ] {
            for conflict in [Conflict::Max, Conflict::Last, Conflict::Mean, Conflict::Sign] {
                let settings = FuseSettings { space, weight, conflict, ..FuseSettings::default() };
                let mut models = Models::new(seed, 4);
                let (fused, report) = models.fuse(&settings);
                check(&models, &settings, &fused, &report);
            }
        }
    }
}

fn check(
    models: &Models,
    settings: &FuseSettings,
    fused: &[f32],
    report: &cpift_model::progress::FusionReport,
) {
    let (mut transplanted, mut conflicts) = (0, 0);
    for (index, segment) in models.layout.segments().iter().enumerate() {
        let free: Vec<usize> = segment.range().filter(|&j| models.owners(j).is_empty()).collect();
        for (&j, expected) in free.iter().zip(models.fold(&free, settings)) {
            assert_near(fused[j], expected, "a coordinate in no core");
        }
        for j in segment.range() {
            match models.owners(j).as_slice() {
                [] => {}
                [owner] => {
                    assert_eq!(
                        fused[j].to_bits(),
                        models.memory.tasks[*owner][j].to_bits(),
                        "a coordinate in one core"
                    );
                    transplanted += 1;
                }
                _ => {
                    assert_near(
                        fused[j],
                        models.conflict(j, index, settings.conflict),
                        "a coordinate in several",
                    );
                    conflicts += 1;
                }
            }
        }
    }
    assert!(conflicts > 50 && transplanted > 50);
    assert_eq!((report.transplanted, report.conflicts), (transplanted, conflicts));
    assert!(report.sign_conflicts > 0 && report.sign_conflicts < conflicts);
    assert_eq!(report.slerps.len(), 3 * models.layout.segments().len());
}

#[test]
fn other_backbones_keep_their_own_values_outside_the_cores() {
    let mut models = Models::new(9, 3);
    for (backbone, expected) in
        [(Backbone::Base, models.memory.base.clone()), (Backbone::Last, models.memory.tasks[2].clone())]
    {
        let settings = FuseSettings { backbone, ..FuseSettings::default() };
        let (fused, report) = models.fuse(&settings);
        for j in models.layout.segments().iter().flat_map(|segment| segment.range()) {
            if models.owners(j).is_empty() {
                assert_eq!(fused[j].to_bits(), expected[j].to_bits());
            }
        }
        assert!(report.slerps.is_empty());
    }
}

#[test]
fn one_task_fuses_to_itself() {
    let mut models = Models::new(3, 1);
    let (fused, report) = models.fuse(&FuseSettings::default());
    assert_eq!(report.conflicts, 0);
    assert!(
        models
            .layout
            .segments()
            .iter()
            .flat_map(|segment| segment.range())
            .all(|j| fused[j] == models.memory.tasks[0][j])
    );
}

#[test]
fn no_core_at_all_is_a_plain_fold() {
    let mut models = Models::new(4, 3);
    models.cores.iter_mut().for_each(|core| core.mask = Mask::zeros(models.layout.len()));
    let settings = FuseSettings::default();
    let (fused, _) = models.fuse(&settings);
    for segment in models.layout.segments() {
        let all: Vec<usize> = segment.range().collect();
        for (&j, expected) in all.iter().zip(models.fold(&all, &settings)) {
            assert_near(fused[j], expected, "a coordinate");
        }
    }
}

/// However the parameters are divided: the same bits, and the same report.
#[test]
fn parts_change_nothing() {
    for backbone in [
        Backbone::Mean,
        Backbone::Base,
        Backbone::Last,
        Backbone::Average,
        Backbone::Arithmetic,
        Backbone::Ties,
        Backbone::Dare,
        Backbone::DareTies,
    ] {
        let mut models = Models::new(5, 3);
        let settings =
            FuseSettings { backbone, conflict: Conflict::Max, density: 0.4, ..FuseSettings::default() };
        let (whole, report) = models.fuse(&settings);
        assert!(whole.iter().all(|value| value.is_finite()), "{backbone:?}");
        for most in [1, 256] {
            let parts = parts_of(&models.layout, most).unwrap();
            assert!(parts.len() > 1);
            let (fused, of_parts) = models.fuse_in_parts(&settings, &parts);
            assert_eq!(fused, whole, "{backbone:?} in parts of {most}");
            assert_eq!(format!("{of_parts:?}"), format!("{report:?}"), "{backbone:?} in parts of {most}");
        }
    }
}
