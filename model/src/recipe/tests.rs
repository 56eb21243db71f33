mod refused;

use super::shape::keys_of;
use super::*;
use crate::transformer::Recompute;

/// Every section but the top level.
const SECTIONS: [&str; 15] = [
    "evaluate",
    "mixture",
    "model",
    "task",
    "measure",
    "train",
    "probe",
    "core",
    "group",
    "fuse",
    "integrate",
    "replay",
    "half",
    "checkpoint",
    "metrics",
];

/// The least a recipe needs, on lines 1 to 5.
const LEAST: &str = "[model]\nbase = \"base\"\n[[task]]\nname = \"sort\"\ntrain = \"sort.jsonl\"\n";

struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn with(bytes: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("recipe.toml"), bytes).unwrap();
        Self { folder }
    }

    fn recipe(&self) -> PathBuf {
        self.folder.path().join("recipe.toml")
    }

    fn load(&self, overrides: &[&str]) -> Result<Recipe> {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        Recipe::load(&self.recipe(), &overrides)
    }
}

fn read(text: &str, overrides: &[&str]) -> Recipe {
    Folder::with(text).load(overrides).unwrap()
}

/// The error of a recipe, with the path of the file cut to its name.
fn error(text: impl AsRef<[u8]>, overrides: &[&str]) -> String {
    let folder = Folder::with(text);
    let error = folder.load(overrides).unwrap_err();
    assert!(error.is_input(), "{error} must be blamed on the input");
    let message = error.to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message.replace(&folder.recipe().display().to_string(), "recipe.toml")
}

#[test]
fn defaults_fill_what_is_not_set() {
    let recipe = read(LEAST, &[]);
    assert_eq!(recipe.method, Method::Cpift);
    assert_eq!((recipe.train.epochs, recipe.integrate.training.epochs), (Some(1.0), Some(1.0)));
    assert_eq!(recipe.train.batch_size, 8);
    assert_eq!(recipe.core.fraction, 0.01);
    assert_eq!(recipe.fuse.weight, FoldWeight::Running);
    assert_eq!(recipe.integrate.frozen, Frozen::Prior);
    assert_eq!(recipe.task[0].weight, 1.0);
}

#[test]
fn the_recipe_of_all_keys_is_complete_and_says_the_defaults() {
    let text = include_str!("../../../examples/every-key.toml");
    for section in SECTIONS {
        let inherits = matches!(section, "probe" | "integrate");
        for key in keys_of(section).iter().filter(|key| !inherits || !keys_of("train").contains(key)) {
            let is_it = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&format!("{key} ="));
            assert!(text.lines().any(is_it), "[{section}] {key}");
        }
    }
    let least = "[model]\nbase = \"my-model\"\n[[task]]\nname = \"code\"\ntrain = \"code.train.jsonl\"\n";
    let paths = |recipe: Recipe| Recipe {
        model: ModelSettings { base: None, ..recipe.model },
        task: recipe
            .task
            .into_iter()
            .map(|task| TaskSettings { train: DataFiles::default(), ..task })
            .collect(),
        ..recipe
    };
    assert_eq!(paths(read(text, &[])), paths(read(least, &[])));
}

#[test]
fn probe_and_integrate_inherit_from_train() {
    let text = format!(
        "{LEAST}[train]\nsteps = 90\nlearning_rate = 0.5\nweight_decay = 0.25\nschedule = \"linear\"\n\
         [probe]\nlearning_rate = 0.125\nimportance = \"path\"\n[integrate]\nepochs = 2\n"
    );
    let recipe = read(&text, &[]);
    assert_eq!(recipe.probe.training.steps, Some(90));
    assert_eq!(recipe.probe.training.learning_rate, 0.125);
    assert_eq!(recipe.probe.training.schedule, Schedule::Linear);
    assert_eq!(recipe.probe.training.weight_decay, 0.0, "probes never inherit decay");
    assert_eq!(recipe.probe.importance, ImportanceKind::Path);
    assert_eq!((recipe.integrate.training.epochs, recipe.integrate.training.steps), (Some(2.0), None));
    assert_eq!(recipe.integrate.training.weight_decay, 0.25);
}

#[test]
fn paths_are_relative_to_the_recipe_and_to_the_current_folder_in_overrides() {
    let folder = Folder::with(LEAST);
    let recipe = folder.load(&[]).unwrap();
    assert_eq!(recipe.model.base.unwrap(), folder.folder.path().join("base"));
    assert_eq!(recipe.task[0].train, DataFiles::new([folder.folder.path().join("sort.jsonl")]));
    let recipe = folder.load(&["task.sort.train=./other.jsonl", "task.sort.eval=/data/x"]).unwrap();
    assert_eq!(recipe.task[0].train, DataFiles::new([std::env::current_dir().unwrap().join("other.jsonl")]));
    assert_eq!(recipe.task[0].eval, Some(DataFiles::new(["/data/x".into()])));
}

#[test]
fn overrides_reach_every_level() {
    let text = format!("{LEAST}[train]\nepochs = 3\n");
    let overrides = [
        "seed=7",
        "method=joint",
        "train.steps=12",
        "integrate.learning_rate=1e-3",
        "task[0].weight=2.5",
        "task.sort.name=\"order\"",
        "core.exclude=[\"norm\", \"embed\"]",
        "fuse.weight=0.5",
        "train.pack = false",
    ];
    let recipe = read(&text, &overrides);
    assert_eq!((recipe.seed, recipe.method), (7, Method::Joint));
    assert_eq!((recipe.train.epochs, recipe.train.steps), (None, Some(12)), "one length replaces the other");
    assert_eq!(recipe.probe.training.steps, Some(12), "inherited after the override");
    assert_eq!(recipe.integrate.training.learning_rate, 1e-3);
    assert_eq!((recipe.task[0].weight, recipe.task[0].name.as_str()), (2.5, "order"));
    assert_eq!(recipe.core.exclude, ["norm", "embed"]);
    assert_eq!(recipe.fuse.weight, FoldWeight::Constant(0.5));
    assert!(!recipe.train.pack);
}

#[test]
fn the_resolved_recipe_reads_back_as_itself() {
    let text = format!(
        "seed = 9223372036854775807\nmethod = \"staged\"\n{LEAST}eval = \"e.jsonl\"\nweight = 0.1\n\
         [[task]]\nname = \"b\"\ntrain = \"b \\\"quoted\\\".jsonl\"\nmodel = \"tuned\"\n\
         learn = \"last\"\nchat = true\nprompt = \"{{{{ a }}}}\\n\"\nanswer = \"b\"\nsystem = \"c\"\ncolumns = {{ history = \"h\" }}\n\
         [train]\nsteps = 3\nlearning_rate = 3.3333333333333335e-5\nweight_decay = 0.1\n\
         [probe]\nimportance = \"fisher\"\n[fuse]\nweight = 0.30000000000000004\n[integrate]\nepochs = 0.1\n"
    );
    let first = Folder::with(&text).load(&["core.exclude=[\"norm\"]"]).unwrap();
    let text = first.to_toml().unwrap();
    let again = Folder::with(&text).load(&[]).unwrap();
    assert_eq!(first, again);
    assert_eq!(text, again.to_toml().unwrap());
    assert!(text.contains("[task.columns]\nhistory = \"h\"\n"), "{text}");
    for section in SECTIONS {
        let always = |key: &&String| {
            !matches!(
                key.as_str(),
                "base"
                    | "config"
                    | "eval"
                    | "model"
                    | "eval_share"
                    | "limit"
                    | "eval_limit"
                    | "max_new_tokens"
                    | "chat"
                    | "prompt"
                    | "answer"
                    | "system"
                    | "columns"
                    | "epochs"
                    | "steps"
                    | "rounds"
                    | "task"
                    | "temperature"
            )
        };
        for key in keys_of(section).iter().filter(always) {
            assert!(text.contains(&format!("\n{key} = ")), "{section}.{key} is missing in\n{text}");
        }
    }
}

#[test]
fn edits_are_what_overrides_of_the_same_text_are() {
    let folder = Folder::with(format!("{LEAST}[train]\nepochs = 3\n"));
    let edits = [
        Edit::Seed(7),
        Edit::Method(Method::Half),
        Edit::TrainSteps(12),
        Edit::TrainLearningRate(4e-5),
        Edit::ProbeSteps(3),
        Edit::TrainMemory(StateMemory::Compact),
        Edit::ProbeImportance(ImportanceKind::Fisher),
        Edit::CoreFraction(0.05),
        Edit::GroupThreshold(0.0),
        Edit::GroupOrder(GroupOrder::Given),
        Edit::FuseBackbone(Backbone::DareTies),
        Edit::FuseSpace(SlerpSpace::Delta),
        Edit::FuseConflict(Conflict::Mean),
        Edit::FuseInterpolation(Interpolation::Lerp),
        Edit::FuseTransplant(false),
        Edit::FuseScale(0.4),
        Edit::FuseDensity(0.1),
        Edit::IntegrateSteps(5),
        Edit::IntegrateSample(1.0),
        Edit::IntegrateData(IntegrateData::Group),
        Edit::IntegrateFrozen(Frozen::Others),
        Edit::IntegrateLearningRate(1e-5),
    ];
    let source = Source::read(&folder.recipe(), &[]).unwrap();
    let overrides: Vec<String> = edits.iter().map(Edit::to_string).collect();
    assert_eq!(source.recipe(&edits).unwrap(), Recipe::load(&folder.recipe(), &overrides).unwrap());
    assert_eq!(overrides[3..5], ["train.learning_rate=4e-5", "probe.steps=3"]);
    let error = source.recipe(&[Edit::CoreFraction(2.0)]).unwrap_err().to_string();
    assert_eq!(error, "`--set core.fraction=2.0`: is 2: use 0 to 1");
}

/// A run's own recipe names `memory` once, so that it can be run again with another.
#[test]
fn the_memory_of_a_resolved_recipe_can_be_set() {
    let written = read(&format!("{LEAST}[train]\nmemory = \"exact\"\n"), &[]).to_toml().unwrap();
    assert_eq!(written.matches("memory = ").count(), 1, "{written}");
    assert_eq!(read(&written, &[]).probe.training.memory, StateMemory::Exact);
    let again = read(&written, &["train.memory=compact"]);
    let trainings = [&again.train, &again.probe.training, &again.integrate.training];
    assert!(trainings.iter().all(|training| training.memory == StateMemory::Compact));
}

#[test]
fn what_is_computed_again_is_a_flag_or_a_name() {
    assert_eq!(read(LEAST, &[]).train.recompute, RecomputeSetting::Auto);
    for (written, expected) in [
        ("false", RecomputeSetting::Of(Recompute::Nothing)),
        ("\"mlp\"", RecomputeSetting::Of(Recompute::Mlp)),
        ("true", RecomputeSetting::Of(Recompute::Layer)),
        ("\"auto\"", RecomputeSetting::Auto),
    ] {
        let recipe = read(&format!("{LEAST}[train]\nrecompute = {written}\n"), &[]);
        assert_eq!((recipe.train.recompute, recipe.integrate.training.recompute), (expected, expected));
        let resolved = recipe.to_toml().unwrap();
        assert_eq!(resolved.matches(&format!("recompute = {written}\n")).count(), 3, "{resolved}");
    }
    let message = error(format!("{LEAST}[train]\nrecompute = \"some\"\n"), &[]);
    assert!(message.contains("expected true, false, \"mlp\" or \"auto\""), "{message}");
}

#[test]
fn the_columns_of_a_task_are_a_section_of_its_own() {
    let of = |recipe: Recipe| recipe.task[0].columns.clone();
    let expected = Columns { prompt: Some("q".into()), answer: Some("a".into()), ..Columns::default() };
    for text in [
        format!("{LEAST}[task.columns]\nprompt = \"q\"\nanswer = \"a\"\n"),
        format!("{LEAST}columns = {{ prompt = \"q\", answer = \"a\" }}\n"),
    ] {
        assert_eq!(of(read(&text, &[])), expected);
        let written = read(&text, &[]).to_toml().unwrap();
        assert_eq!(of(read(&written, &[])), expected, "{written}");
    }
    for overrides in [
        ["task.sort.columns.prompt=q", "task.sort.columns.answer=a"],
        ["task[0].columns.prompt=q", "task[0].columns.answer=a"],
    ] {
        assert_eq!(of(read(LEAST, &overrides)), expected);
    }
    // A task may be named so.
    let text = LEAST.replace("\"sort\"", "\"sort.columns\"");
    let recipe = read(&text, &["task.sort.columns.weight=2", "task.sort.columns.columns.text=t"]);
    assert_eq!((recipe.task[0].weight, recipe.task[0].columns.text.as_deref()), (2.0, Some("t")));
}

#[test]
fn a_measure_is_read_as_a_task_and_written_only_where_there_is_one() {
    assert!(!read(LEAST, &[]).to_toml().unwrap().contains("measure"));
    let text = format!(
        "{LEAST}[[measure]]\nname = \"general text\"\neval = \"c4.jsonl\"\ncolumns = {{ text = \"body\" }}\n"
    );
    let folder = Folder::with(&text);
    let recipe = folder.load(&["measure.general text.eval_limit=5", "measure[0].columns.text=page"]).unwrap();
    let task = recipe.measure[0].as_task();
    assert_eq!(task.eval, Some(DataFiles::new([folder.folder.path().join("c4.jsonl")])));
    assert_eq!((task.eval_limit, task.columns.text.as_deref()), (Some(5), Some("page")));
    assert_eq!(read(&recipe.to_toml().unwrap(), &[]).measure, recipe.measure);
}
