//! The examples of every `--help`, read from it and tried.

use std::fs;

use cpift_tests::folders;
use serde_json::Value;

use crate::documented::{Workplace, blocks};
use crate::support::{run, stdout};

/// Every command that has a help text of its own.
const COMMANDS: [&[&str]; 18] = [
    &[],
    &["train"],
    &["compare"],
    &["eval"],
    &["generate"],
    &["plan"],
    &["data"],
    &["inspect"],
    &["cores"],
    &["merge"],
    &["export"],
    &["apply"],
    &["report"],
    &["bench"],
    &["bench", "step"],
    &["bench", "kernels"],
    &["devices"],
    &["completions"],
];

fn help(command: &[&str]) -> String {
    stdout(&run(&[command, &["--help"]].concat())).to_owned()
}

/// The examples of a help text.
fn examples(command: &[&str]) -> Vec<String> {
    let help = help(command);
    help.lines().filter_map(|line| line.strip_prefix("  cpift-engine ")).map(str::to_owned).collect()
}

/// Runs the examples of a command in order. `prepare` readies the folder for one and returns it, or a smaller
/// one in its place; it knows every example.
fn run_examples(command: &[&str], place: &Workplace, prepare: impl Fn(&str) -> Option<&'static str>) {
    let examples = examples(command);
    assert!(!examples.is_empty(), "{command:?}");
    for example in &examples {
        let smaller = prepare(example);
        place.run(&format!("cpift-engine {}", smaller.unwrap_or(example)));
    }
}

#[track_caller]
fn unknown(example: &str) -> ! {
    panic!("a help text has an example that is not tested: {example}")
}

#[test]
fn every_command_is_here() {
    let listed = help(&[]);
    let commands = listed.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    // What is indented more goes on with the line before.
    let commands = commands.filter(|line| !line.starts_with("   "));
    for name in commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        assert!(COMMANDS.iter().any(|command| command.first() == Some(&name)), "{name}");
    }
    let with_examples = [
        "train",
        "compare",
        "eval",
        "generate",
        "data",
        "inspect",
        "cores",
        "merge",
        "export",
        "apply",
        "report",
        "bench",
        "completions",
    ];
    for command in COMMANDS.into_iter().filter(|command| !examples(command).is_empty()) {
        assert!(with_examples.contains(&command[0]), "{command:?} has examples that are not tested");
    }
}

#[test]
fn the_examples_of_train_run() {
    let place = Workplace::new();
    run_examples(&["train"], &place, |example| {
        match example {
            "train recipe.toml"
            | "train recipe.toml --set seed=2 --out runs/second"
            | "train recipe.toml --set method=joint --out runs/joint"
            | "train recipe.toml --out runs/apart --probe code"
            | "train recipe.toml --out runs/apart --resume" => {}
            // It is the first example's folder.
            "train recipe.toml --until fuse" => place.clear("runs/NAME"),
            "train recipe.toml --resume" => assert!(!place.has("runs/NAME/final")),
            example => unknown(example),
        }
        None
    });
    for name in ["NAME", "second", "joint", "apart"] {
        assert!(place.has(&format!("runs/{name}/final/config.json")), "{name}");
    }
}

#[test]
fn the_examples_of_data_run() {
    let place = Workplace::new();
    run_examples(&["data"], &place, |example| match example {
        "data recipe.toml"
        | "data recipe.toml --task code --rows 10"
        | "data code.jsonl --model my-model"
        | "data code.jsonl --model my-model --set task[0].limit=5 --json" => None,
        example => unknown(example),
    });
}

#[test]
fn the_examples_of_inspect_run() {
    let place = Workplace::new();
    run_examples(&["inspect"], &place, |example| match example {
        "inspect my-model" | "inspect my-model --json" => None,
        example => unknown(example),
    });
}

/// The tokens that a folder names are tokens of its tokenizer, those that texts cannot spell as well.
#[test]
fn inspect_finds_the_special_tokens() {
    let place = Workplace::new();
    let output = place.run("cpift-engine inspect my-model --json");
    let inspection: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tokens = inspection["special_tokens"].as_array().unwrap();
    let eos = tokens.iter().find(|token| token["name"] == "eos_token").unwrap();
    assert!(inspection["stop_tokens"].as_array().unwrap().contains(&eos["id"]), "{inspection}");
    assert!(tokens.iter().all(|token| token["id"].is_u64()), "{inspection}");
}

/// The recipe that `train --help` teaches.
#[test]
fn the_recipe_of_the_help_text_trains() {
    let blocks = blocks(&help(&["train"]));
    let recipe = blocks.iter().find(|block| block.contains("[model]")).unwrap();
    let place = Workplace::new();
    fs::write(place.path("least.toml"), recipe).unwrap();
    place.run("cpift-engine plan least.toml");
    place.run("cpift-engine train least.toml");
    // What the text says of the run folder's files.
    let text = help(&["train"]);
    let files = text.lines().skip_while(|line| !line.starts_with("Files written")).skip(1);
    let files: Vec<&str> = files.take_while(|line| line.starts_with("  ")).map(str::trim).collect();
    assert!(files.len() > 6, "{files:?}");
    for line in files.iter().filter(|line| !line.contains("--tensorboard") && !line.starts_with("the same")) {
        let names = line.find("  ").map_or(*line, |end| &line[..end]);
        for name in names.split(' ') {
            assert!(place.has(&format!("runs/least/{name}")), "no {name}");
        }
    }
}

#[test]
fn the_examples_of_compare_run() {
    let place = Workplace::new();
    run_examples(&["compare"], &place, |example| {
        // The same with fewer steps, or fewer seeds and parts.
        Some(match example {
            "compare recipe.toml" => "compare recipe.toml --set train.steps=1 --seeds 1 --methods cpift,half",
            "compare recipe.toml --quick" => {
                place.clear("runs/NAME-compare");
                "compare recipe.toml --quick --set train.steps=1 --methods cpift,dare"
            }
            "compare recipe.toml --methods cpift,joint --ablations fraction,freezing --seeds 5" => {
                place.clear("runs/NAME-compare");
                "compare recipe.toml --methods cpift,joint --ablations fraction,freezing --seeds 1 \
                 --set train.steps=1"
            }
            "compare recipe.toml --ablations all --forgetting --out study --resume" => {
                "compare recipe.toml --ablations all --forgetting --out study --resume --set train.steps=1 \
                 --seeds 1 --methods cpift,ties"
            }
            "compare recipe.toml --rows \"joint,cpift,no stage 4\" --against joint" => {
                place.clear("runs/NAME-compare");
                "compare recipe.toml --rows \"joint,cpift,no stage 4\" --against joint --seeds 1 \
                 --set train.steps=1"
            }
            "compare recipe.toml --methods none --probe-lengths 5,20,80 --out lengths" => {
                // Its recipe has a task with a model of its own, which has no probe.
                "compare examples/seesaw/small.recipe.toml --methods none --probe-lengths 1,2 --out lengths \
                 --set probe.steps=1 --set integrate.steps=1 --seeds 1"
            }
            example => unknown(example),
        })
    });
    let json = fs::read(place.path("study/results.json")).unwrap();
    serde_json::from_slice::<Value>(&json).unwrap();
    for name in ["table.md", "runs", "outcomes", "logs"] {
        assert!(place.has(&format!("study/{name}")), "{name}");
    }
}

#[test]
fn the_examples_about_a_run_run() {
    let place = Workplace::new();
    place.run(
        "cpift-engine train examples/seesaw/recipe.toml --set train.steps=3 --set probe.steps=1 \
         --set integrate.steps=1",
    );
    run_examples(&["eval"], &place, |example| match example {
        "eval runs/seesaw/final --data sort.jsonl code.jsonl --generate"
        | "eval my-model --data code.jsonl --json > scores.json"
        | "eval my-model --data code.jsonl --max-length 512"
        | "eval my-model --data code.jsonl --generate --score number --answers answers.jsonl"
        | "eval my-model --data code.eval.jsonl --shots 4 --shots-from code.train.jsonl" => None,
        // The same with a file that is there.
        "eval my-model --data riddles.csv --set columns.prompt=q --set columns.answer=a" => Some(
            "eval my-model --data code.jsonl --set columns.prompt=prompt --set columns.answer=completion",
        ),
        "eval my-model --data riddles.csv --set \"prompt={{q}}\" --set \"answer={{a}}\"" => Some(
            "eval my-model --data code.jsonl --set \"prompt={{prompt}}\" --set \"answer={{completion}}\"",
        ),
        example => unknown(example),
    });
    let scores: Value = serde_json::from_slice(&fs::read(place.path("scores.json")).unwrap()).unwrap();
    assert!(scores["files"][0]["rows"][0]["loss"].is_number());
    let answers = fs::read_to_string(place.path("answers.jsonl")).unwrap();
    assert_eq!(answers.lines().count(), scores["files"][0]["rows"].as_array().unwrap().len());
    run_examples(&["generate"], &place, |example| match example {
        "generate runs/seesaw/final --prompt \"sort: dcab =\""
        | "generate my-model --prompt \"Once upon\" --temperature 0.8 --top-p 0.95"
        | "generate my-model --chat --system \"Answer briefly.\" --prompt \"What is 2+3?\""
        | "generate my-model --prompts code.eval.jsonl --stop \"###\" --out generated.jsonl" => None,
        // It reads from a terminal, which tests of their own have.
        "generate my-model --chat" => Some("generate my-model --chat --prompt 1"),
        example => unknown(example),
    });
    assert_eq!(fs::read_to_string(place.path("generated.jsonl")).unwrap().lines().count(), 8);
    run_examples(&["report"], &place, |example| match example {
        "report runs/seesaw" | "report runs/seesaw --out seesaw.html --figures paper/figures" => None,
        example => unknown(example),
    });
    assert!(place.has("seesaw.html") && place.has("paper/figures/report.json"));
    run_examples(&["completions"], &place, |example| match example {
        "completions bash > /etc/bash_completion.d/cpift-engine"
        | "completions zsh > ~/.zfunc/_cpift-engine"
        | "completions fish > ~/.config/fish/completions/cpift-engine.fish" => None,
        example => unknown(example),
    });
}

#[test]
fn the_examples_of_cores_run() {
    let place = Workplace::new();
    for tune in ["tune-a", "tune-b"] {
        folders::copy(&place.path("my-model"), &place.path(tune));
    }
    run_examples(&["cores"], &place, |example| {
        assert!(example.starts_with("cores ") && example.contains(" --out cores"), "{example}");
        place.clear("cores");
        None
    });
    // What the text says is written.
    for name in ["math.mask.safetensors", "report.json", "report.html", "report/cores.csv", "manifest.json"] {
        assert!(place.has(&format!("cores/{name}")), "no {name}");
    }
}

#[test]
fn the_examples_of_merge_run() {
    let place = Workplace::new();
    for tune in ["my-tune", "tune-a", "tune-b", "tune-c"] {
        folders::copy(&place.path("my-model"), &place.path(tune));
    }
    let text =
        "merge_method: slerp\nparameters: {t: [0, 1]}\nbase_model: my-model\nmodels: [{model: my-tune}]\n";
    std::fs::write(place.path("merge.yml"), text).unwrap();
    run_examples(&["merge"], &place, |example| {
        assert!(example.starts_with("merge ") && example.contains(" --out merged"), "{example}");
        place.clear("merged");
        None
    });
    // What the text says is written.
    for name in ["model.safetensors", "config.json", "tokenizer.json", "manifest.json"] {
        assert!(place.has(&format!("merged/{name}")), "no {name}");
    }
    for name in ["sweep.json", "report.html", "report/sweep.csv"] {
        assert!(place.has(&format!("merged/{name}")), "no {name}");
    }
    place.run("cpift-engine inspect merged");
}

#[test]
fn the_examples_of_export_and_apply_run() {
    let place = Workplace::new();
    fs::rename(place.path("my-chat-finetune"), place.path("my-tune")).unwrap();
    place.run("cpift-engine cores --base my-model math=my-tune --out cores");
    run_examples(&["export"], &place, |example| {
        assert!(example.contains(" --out delta") || example.contains(" --out adapter"), "{example}");
        place.clear("delta");
        place.clear("adapter");
        None
    });
    for name in
        ["adapter_config.json", "adapter_model.safetensors", "report.json", "report.md", "manifest.json"]
    {
        assert!(place.has(&format!("adapter/{name}")), "no {name}");
    }
    place.run("cpift-engine export --base my-model my-tune --as delta --out delta");
    for name in ["delta.safetensors", "delta.json", "config.json", "manifest.json"] {
        assert!(place.has(&format!("delta/{name}")), "no {name}");
    }
    run_examples(&["apply"], &place, |example| match example {
        "apply delta --base my-model --out my-tune-again" => None,
        example => unknown(example),
    });
    let [one, other] = ["my-tune", "my-tune-again"].map(|model| {
        let tensors = cpift_tests::model_folders::read(&place.path(model));
        let mut bytes: Vec<_> = tensors.into_values().map(|tensor| (tensor.name, tensor.bytes)).collect();
        bytes.sort();
        bytes
    });
    assert!(one == other, "the fine-tune is there again");
    place.run("cpift-engine inspect my-tune-again");
}

#[test]
fn the_examples_of_bench_run() {
    let place = Workplace::new();
    run_examples(&["bench", "step"], &place, |example| match example {
        "bench step --config config.json --batch 4 --length 256" => None,
        example => unknown(example),
    });
    run_examples(&["bench", "kernels"], &place, |example| match example {
        // The same options with sizes that take a moment.
        "bench kernels" => Some("bench kernels --filter adamw --parameters 1000 --seconds 0"),
        "bench kernels --filter adamw --parameters 100000000" => {
            Some("bench kernels --filter adamw --parameters 1000 --seconds 0")
        }
        "bench kernels --model 0.5B 7B --tokens 1024 --json > kernels.json" => Some(
            "bench kernels --model 0.5B 7B --tokens 16 --json --filter adamw --parameters 1000 --seconds 0 \
             > kernels.json",
        ),
        "bench kernels --predict --filter 7B" => None,
        // The file is one of a CPU here, which measures in f32.
        "bench kernels --predict h100 --compare kernels.json" => {
            Some("bench kernels --predict h100 --compare kernels.json --precision f32")
        }
        example => unknown(example),
    });
}
