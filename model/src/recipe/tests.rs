use super::shape::keys_of;
use super::*;

/// Every section but the top level.
const SECTIONS: [&str; 14] = [
    "evaluate",
    "mixture",
    "model",
    "task",
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

#[test]
fn unknown_keys_are_named_with_the_nearest() {
    let cases = [
        ("methid = \"joint\"\n", "recipe.toml:6: `methid`: is not a key, did you mean `method`?"),
        (
            "learning_rate = 1.0\n",
            "recipe.toml:6: `learning_rate`: is not a key here: it belongs into [train]",
        ),
        (
            "[train]\nlearningrate = 1\n",
            "recipe.toml:7: `train.learningrate`: is not a key, did you mean `learning_rate`?",
        ),
        (
            "[train]\nbatch-size = 1\n",
            "recipe.toml:7: `train.batch-size`: is not a key, did you mean `batch_size`?",
        ),
        ("[probe]\nStep = 1\n", "recipe.toml:7: `probe.Step`: is not a key, did you mean `steps`?"),
        (
            "[core]\nfractoin = 0.1\n",
            "recipe.toml:7: `core.fractoin`: is not a key, did you mean `fraction`?",
        ),
        (
            "[core]\nfrozen = 1\n",
            "recipe.toml:7: `core.frozen`: is not a key here: it belongs into [integrate]",
        ),
        (
            "[fuse]\nzzzzzz = 1\n",
            "recipe.toml:7: `fuse.zzzzzz`: is not a key: known here are backbone, space, weight, \
             conflict, epsilon, interpolation, transplant, scale, density",
        ),
        ("[cores]\nfraction = 0.1\n", "recipe.toml:6: `cores`: is not a key, did you mean `core`?"),
        ("[[tasks]]\n", "recipe.toml:6: `tasks`: is not a key, did you mean `task`?"),
        (
            "[[task]]\nname = \"b\"\ntrain = \"b\"\nevall = \"c\"\n",
            "recipe.toml:9: `task[1].evall`: is not a key, did you mean `eval`?",
        ),
    ];
    for (addition, expected) in cases {
        // Top-level keys would land in the section before them: a recipe may not have them there.
        let text = if addition.starts_with('[') {
            format!("{LEAST}{addition}")
        } else {
            format!("\n\n\n\n\n{addition}{LEAST}")
        };
        assert_eq!(error(text, &[]), expected);
    }
}

#[test]
fn wrong_types_say_what_is_expected() {
    let cases = [
        (
            "[train]\nsteps = \"many\"\n",
            "recipe.toml:7: `train.steps`: is the string \"many\": use a whole number that is not negative",
        ),
        (
            "[train]\nsteps = -3\n",
            "recipe.toml:7: `train.steps`: is the number `-3`: use a whole number that is not negative",
        ),
        (
            "[train]\nsteps = 1.5\n",
            "recipe.toml:7: `train.steps`: is the number `1.5`: use a whole number that is not negative",
        ),
        (
            "[train]\nshuffle = \"yes\"\n",
            "recipe.toml:7: `train.shuffle`: is the string \"yes\": use true or false",
        ),
        (
            "[integrate]\nlearning_rate = true\n",
            "recipe.toml:7: `integrate.learning_rate`: is `true`: use a number",
        ),
        (
            "[train]\nschedule = \"cosin\"\n",
            "recipe.toml:7: `train.schedule`: is `cosin`: use cosine, linear, constant, did you mean `cosine`?",
        ),
        (
            "[fuse]\nweight = \"runing\"\n",
            "recipe.toml:7: `fuse.weight`: cannot be used: expected \"running\" or a number from 0 to 1",
        ),
        (
            "[core]\nexclude = \"norm\"\n",
            "recipe.toml:7: `core.exclude`: is the string \"norm\": use a list, [\"…\", \"…\"]",
        ),
        (
            "[probe]\nimportance = 3\n",
            "recipe.toml:7: `probe.importance`: is `3`: use net, path, fisher, random, inverse",
        ),
        (
            "[[task]]\nname = 3\ntrain = \"x\"\n",
            "recipe.toml:7: `task[1].name`: is the number `3`: use a string",
        ),
        (
            "[[task]]\nname = \"x\"\ntrain = []\n",
            "recipe.toml:8: `task[1].train`: cannot be used: is an empty list: name at least one file",
        ),
        ("[[task]]\nname = \"x\"\ntrain = \"\"\n", "recipe.toml:8: `task[1].train`: is empty"),
        (
            "[[task]]\nname = \"x\"\n",
            "recipe.toml:6: `task[1].train`: is missing: every [[task]] needs `train`",
        ),
    ];
    for (addition, expected) in cases {
        assert_eq!(error(format!("{LEAST}{addition}"), &[]), expected);
    }
    assert_eq!(
        error(format!("train = 3\n{LEAST}"), &[]),
        "recipe.toml:1: `train`: must be a section, `[train]`, not `3`"
    );
    assert_eq!(
        error(format!("seed = 0.5\n{LEAST}"), &[]),
        "recipe.toml:1: `seed`: is the number `0.5`: use a whole number that is not negative"
    );
    let one_bracket = error("[model]\nbase = \"b\"\n[task]\nname = \"x\"\n", &[]);
    assert_eq!(
        one_bracket,
        "recipe.toml:3: `task`: must be a list: write `[[task]]`, with two brackets, once per task"
    );
    assert_eq!(error("", &[]), "recipe.toml: `model`: is missing: add `[model]` with `base = \"folder\"`");
    assert_eq!(
        error("[model]\nbase = \"b\"\n", &[]),
        "recipe.toml: `task`: is missing: add `[[task]]` with `name` and `train`"
    );
}

#[test]
fn values_out_of_range_name_their_line() {
    let cases = [
        ("[train]\nlearning_rate = -1\n", "recipe.toml:7: `train.learning_rate`: is -1: use 0 to 100"),
        ("[train]\neps = 0\n", "recipe.toml:7: `train.eps`: is 0: use 1e-30 to 1"),
        ("[train]\nclip = nan\n", "recipe.toml:7: `train.clip`: is NaN: use 0 to 1000000000000"),
        (
            "[train]\nsteps = 5\nepochs = 1\n",
            "recipe.toml:8: `train.epochs`: excludes `steps`: remove one of the two",
        ),
        (
            "[integrate]\nsample = 0\n",
            "recipe.toml:7: `integrate.sample`: is 0: use more than 0 and at most 1",
        ),
        ("[checkpoint]\nkeep = 0\n", "recipe.toml:7: `checkpoint.keep`: is 0: use 1 to 1000000"),
        ("[[task]]\nname = \"SORT\"\ntrain = \"x\"\n", "recipe.toml:7: `task[1].name`: `SORT` occurs twice"),
    ];
    for (addition, expected) in cases {
        assert_eq!(error(format!("{LEAST}{addition}"), &[]), expected);
    }
    let no_model = error("[model]\nmax_length = 8\n[[task]]\nname = \"x\"\ntrain = \"x\"\n", &[]);
    assert_eq!(no_model, "recipe.toml:1: `model.base`: name a Hugging Face folder (or set model.config)");
}

#[test]
fn text_that_is_no_recipe_names_line_and_column() {
    assert_eq!(
        error("[model]\nbase = \n", &[]),
        "recipe.toml:2: column 8: string values must be quoted, expected literal string"
    );
    let twice = error(format!("{LEAST}[train]\nsteps = 1\nsteps = 2\n"), &[]);
    assert_eq!(twice, "recipe.toml:8: column 1: duplicate key");
    assert!(error(format!("{LEAST}[model]\n"), &[]).starts_with("recipe.toml:6: column 2: duplicate key"));
    assert_eq!(
        error(b"[model]\nbase = \"\xff\xfe\"\n", &[]),
        "recipe.toml:2: is not UTF-8 text: save the recipe as UTF-8"
    );
    assert!(
        error(b"\x00\x01\x02", &[]).starts_with("recipe.toml: is not a recipe: looks like a binary file")
    );
    assert!(error(b"\x01\x02", &[]).starts_with("recipe.toml:1: column "));
}

#[test]
fn overrides_that_cannot_be_used_are_named() {
    let cases = [
        ("seed", "`--set seed`: has no `=`: write --set section.key=value"),
        ("=3", "`--set =3`: has no key: write --set section.key=value"),
        ("train.=3", "`--set train.=3`: has no key: write --set section.key=value"),
        ("train.step=3", "`--set train.step=3`: is not a key, did you mean `steps`?"),
        ("trian.steps=3", "`--set trian.steps=3`: is not a key, did you mean `train`?"),
        (
            "train.steps=1O",
            "`--set train.steps=1O`: is the string \"1O\": use a whole number that is not negative",
        ),
        ("train.steps=", "`--set train.steps=`: is empty"),
        ("core.fraction=2", "`--set core.fraction=2`: is 2: use 0 to 1"),
        ("seed.x=2", "`--set seed.x=2`: `seed` is not a section"),
        (
            "task[1].weight=2",
            "`--set task[1].weight=2`: there is no such task: the recipe has task[0] = sort",
        ),
        (
            "task.mort.weight=2",
            "`--set task.mort.weight=2`: there is no such task: the recipe has task[0] = sort",
        ),
        (
            "task[0].wait=2",
            "`--set task[0].wait=2`: is not a key: known here are name, train, eval, weight, repeat, model, eval_share, \
             limit, eval_limit, skip_invalid, special_tokens, learn, chat, prompt, answer, system, score, \
             max_new_tokens, shots, columns",
        ),
        ("train={steps=0}", "`--set train={steps=0}`: is 0: use 1 to 1000000000000"),
    ];
    for (assignment, expected) in cases {
        assert_eq!(error(format!("seed = 1\n{LEAST}"), &[assignment]), expected);
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = Folder::with(LEAST);
    let missing = Recipe::load(&folder.folder.path().join("none.toml"), &[]).unwrap_err();
    assert!(missing.is_input());
    assert!(missing.to_string().contains("none.toml: cannot read: No such file"), "{missing}");
    let directory = Recipe::load(folder.folder.path(), &[]).unwrap_err().to_string();
    assert!(
        directory.ends_with(&format!("is a folder, not a recipe: give {}", folder.recipe().display())),
        "{directory}"
    );
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
fn keys_of_rows_that_cannot_be_used_are_named() {
    for (keys, expected) in [
        (
            "columns = { promt = \"q\" }",
            "recipe.toml:6: `task[0].columns.promt`: is not a key, did you mean `prompt`?",
        ),
        ("columns = { prompt = 1 }", "recipe.toml:6: `task[0].columns.prompt`: is the number `1`: use "),
        (
            "columns = \"q\"",
            "recipe.toml:6: `task[0].columns`: must be a section, `[task.columns]`, not the string",
        ),
        ("columns = { prompt = \"\" }", "recipe.toml:6: `task[0].columns.prompt`: is empty"),
        (
            "learn = \"lst\"",
            "recipe.toml:6: `task[0].learn`: is `lst`: use all, last, template, did you mean `last`?",
        ),
        ("chat = 1", "recipe.toml:6: `task[0].chat`: is the number `1`: use true or false"),
        ("prompt = \"{{q}}\"", "recipe.toml:6: `task[0].prompt`: needs `answer` beside it"),
        (
            "columns = { prompt = \"q\" }",
            "recipe.toml:6: `task[0].columns.prompt`: needs `columns.answer` beside it",
        ),
        ("prompt = \"{{q\"\nanswer = \"b\"", "recipe.toml:6: `task[0].prompt`: is not a valid template: "),
        (
            "prompt = \"a\"\nanswer = \"b\"\ncolumns = { text = \"t\" }",
            "recipe.toml:8: `task[0].columns.text`: excludes `prompt`: remove one of the two",
        ),
        (
            "chat = false\ncolumns = { messages = \"m\" }",
            "recipe.toml:6: `task[0].chat`: cannot be false beside `columns.messages`: remove one of the two",
        ),
    ] {
        let message = error(format!("{LEAST}{keys}\n"), &[]);
        assert!(message.starts_with(expected), "{keys}: {message}");
    }
    let message = error(LEAST, &["task.sort.colums.prompt=q"]);
    assert!(message.contains("`colums` is not a section of a task, did you mean `columns`?"), "{message}");
}
