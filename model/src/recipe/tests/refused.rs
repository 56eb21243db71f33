//! Recipes and overrides that cannot be used, and what is said about them.

use super::*;

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
            "recipe.toml:7: `probe.importance`: is `3`: use net, path, fisher, fisher-net, random, inverse",
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
        error(format!("{LEAST}[task]\n"), &[]),
        "recipe.toml:6: column 2: duplicate key: write [[task]], with two brackets, once per task"
    );
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
fn numbers_that_no_value_holds_are_named() {
    let whole =
        "is a whole number that is too large: use at most 9223372036854775807 (or less, as the key allows)";
    let real = "is a number that is too large: use at most 1.7e308 (or less, as the key allows)";
    for (text, expected) in [
        ("[train]\nsteps = 99999999999999999999\n", format!("recipe.toml:7: `train.steps`: {whole}")),
        ("[train]\n\nsteps = 0x8000000000000000\n", format!("recipe.toml:8: `train.steps`: {whole}")),
        ("[train]\nlearning_rate = 1e999\n", format!("recipe.toml:7: `train.learning_rate`: {real}")),
        ("limit = 18446744073709551615\n", format!("recipe.toml:6: `task[0].limit`: {whole}")),
    ] {
        assert_eq!(error(format!("{LEAST}{text}"), &[]), expected);
    }
    assert!(
        error(format!("seed = 18446744073709551615\n{LEAST}"), &[])
            .starts_with("recipe.toml:1: `seed`: is a")
    );
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
            "train.steps.x=2",
            "`--set train.steps.x=2`: `train.steps` is not a section: write --set train.key=value",
        ),
        (
            "task[0]=3",
            "`--set task[0]=3`: names a whole task: write --set with one of its keys, as in `task[0].weight=2`",
        ),
        (
            "task.sort=3",
            "`--set task.sort=3`: names a whole task: write --set with one of its keys, as in `task[0].weight=2`",
        ),
        ("task[0].name.x=2", "`--set task[0].name.x=2`: `name` is not a section of a task"),
        (
            "task[0].columns.prompt.x=2",
            "`--set task[0].columns.prompt.x=2`: `columns.prompt` is not a section of a task",
        ),
        ("task=[3]", "`--set task=[3]`: must be a section, `[[task]]`, not `3`"),
        (
            "train.steps=99999999999999999999",
            "`--set train.steps=99999999999999999999`: is a whole number that is too large: use at most \
             9223372036854775807 (or less, as the key allows)",
        ),
        (
            "core={fraction=1e999}",
            "`--set core={fraction=1e999}`: is a number that is too large: use at most 1.7e308 (or less, as the key \
             allows)",
        ),
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
            "`--set task[0].wait=2`: is not a key: known here are name, train, eval, weight, repeat, epochs, model, \
             eval_share, limit, eval_limit, skip_invalid, special_tokens, learn, chat, prompt, answer, system, score, \
             answers, max_new_tokens, shots, columns",
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

#[test]
fn a_measure_has_no_keys_of_training_and_a_name_of_its_own() {
    let measure = "[[measure]]\nname = \"general text\"\neval = \"c4.jsonl\"\n";
    let training = "is about training, and a [[measure]] is never trained: leave it out (`eval` and `eval_limit` say what is measured)";
    let shots = "takes examples from rows to train on, of which a [[measure]] has none: leave it out";
    for (line, key, reason) in [
        ("train = \"a.jsonl\"", "train", training),
        ("weight = 2.0", "weight", training),
        ("model = \"tune\"", "model", training),
        ("limit = 3", "limit", training),
        ("eval_share = 0.1", "eval_share", training),
        ("shots = 4", "shots", shots),
        ("scores = \"exact\"", "scores", "is not a key, did you mean `score`?"),
        ("eval_limit = 0", "eval_limit", "is 0: use 1 or more rows"),
        ("max_new_tokens = 0", "max_new_tokens", "is 0: use 1 to 1048576"),
        ("prompt = \"{{a}}\"", "prompt", "needs `answer` beside it"),
    ] {
        let expected = format!("recipe.toml:9: `measure[0].{key}`: {reason}");
        assert_eq!(error(format!("{LEAST}{measure}{line}\n"), &[]), expected);
    }
    for (name, reason) in [
        ("Sort", "`Sort` occurs twice among tasks and measures"),
        ("a/b", "is `a/b`: use 1 to 64 letters, digits, `-`, `_`, `.` and spaces, no space at either end"),
        (" a", "is ` a`: use 1 to 64 letters, digits, `-`, `_`, `.` and spaces, no space at either end"),
    ] {
        let text = format!("{LEAST}{}", measure.replace("general text", name));
        assert_eq!(error(text, &[]), format!("recipe.toml:7: `measure[0].name`: {reason}"));
    }
    let nameless = format!("{LEAST}[[measure]]\neval = \"c4.jsonl\"\n");
    assert_eq!(
        error(nameless, &[]),
        "recipe.toml:6: `measure[0].name`: is missing: every [[measure]] needs `name`"
    );
    let chosen =
        format!("{LEAST}eval = \"e.jsonl\"\n{measure}[evaluate]\nevery = 1\ntask = \"general text\"\n");
    assert!(error(chosen, &[]).contains("there is no task `general text`"));
    assert_eq!(
        error(format!("{LEAST}{measure}"), &["measure.c4.eval_limit=3"]),
        "`--set measure.c4.eval_limit=3`: there is no such measure: the recipe has measure[0] = general text"
    );
}
