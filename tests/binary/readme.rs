//! Everything that README.md tells a reader to type or write, read from it and tried.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use serde_json::Value;

use crate::documented::{Workplace, block_with, blocks, code_spans, readme, without_remark};
use crate::support::{engine, stderr, stdout};

/// The commands that stand on lines of their own.
fn commands() -> Vec<String> {
    let is_command = |line: &&str| line.starts_with("cpift-engine ") || line.starts_with("cargo ");
    let blocks = blocks(&readme());
    let lines = blocks.iter().flat_map(|block| block.lines());
    lines.map(without_remark).filter(is_command).map(str::to_owned).collect()
}

#[test]
fn every_command_runs_as_it_is_written() {
    let place = Workplace::new();
    let mut commands = commands();
    // The block of all commands comes last; the example and the tests have lines of their own before.
    assert_eq!(commands.remove(0), "cargo run --release -- train examples/seesaw/recipe.toml");
    assert_eq!(commands.remove(0), "cargo test --workspace");
    assert!(commands.len() > 8, "{commands:?}");
    for command in &commands {
        let (run, finished): (_, &dyn Fn(&str)) = match command.as_str() {
            "cpift-engine plan recipe.toml" => {
                (command.as_str(), &|_| assert!(!place.has("runs"), "a plan trains nothing"))
            }
            "cpift-engine train recipe.toml" => (command, &|_| run_folder_is_whole(&place, "runs/NAME")),
            "cpift-engine train recipe.toml --resume" => (command, &|table| {
                assert!(table.contains("final"), "{table}");
                run_folder_is_whole(&place, "runs/NAME");
            }),
            "cpift-engine train recipe.toml --out runs/apart --probe code" => (command, &|said| {
                assert!(said.contains("all probes of the run are there"), "{said}");
                assert!(place.has("runs/apart/probe-runs/code/made"));
            }),
            "cpift-engine train recipe.toml --out runs/apart --resume" => (command, &|_| {
                run_folder_is_whole(&place, "runs/apart");
                let bits =
                    |run: &str| fs::read(place.path(&format!("{run}/final/model.safetensors"))).unwrap();
                assert!(
                    bits("runs/NAME") == bits("runs/apart"),
                    "the same bits as a run that trains its probes"
                );
            }),
            "cpift-engine report runs/NAME" => (command, &|_| {
                assert!(place.has("runs/NAME/report.html"));
                let json = fs::read(place.path("runs/NAME/report/report.json")).unwrap();
                serde_json::from_slice::<Value>(&json).unwrap();
            }),
            // Three seeds of every method take a minute: here one, and the fewest steps.
            "cpift-engine compare recipe.toml" => {
                ("cpift-engine compare recipe.toml --seeds 1 --set train.steps=1", &|_| {
                    assert!(place.has("runs/NAME-compare/results.json"));
                    assert!(place.has("runs/NAME-compare/table.md"));
                })
            }
            "cpift-engine data recipe.toml" => (command, &|rows| {
                assert!(rows.contains("code, train:") && rows.contains("chat, eval:"), "{rows}");
                assert!(rows.contains('⟦'), "{rows}");
            }),
            "cpift-engine eval MODEL --data a.jsonl b.jsonl --generate" => (command, &|table| {
                assert!(table.contains("a.jsonl") && table.contains("b.jsonl"), "{table}");
            }),
            "cpift-engine eval MODEL --data a.jsonl --generate --score number --answers answers.jsonl" => {
                (command, &|table| {
                    assert!(table.contains("number"), "{table}");
                    let answers = fs::read_to_string(place.path("answers.jsonl")).unwrap();
                    assert_eq!(answers.lines().count(), 8);
                })
            }
            "cpift-engine cores --base my-model my-chat-finetune --out cores" => {
                (command, &|_| assert!(place.has("cores/my-chat-finetune.mask.safetensors")))
            }
            "cpift-engine cores --base my-model chat=my-chat-finetune all=runs/NAME/final --out my-cores" => {
                (command, &|table| {
                    assert!(table.contains("chat") && table.contains("all"), "{table}");
                    assert!(place.has("my-cores/report.html") && place.has("my-cores/all.mask.safetensors"));
                })
            }
            "cpift-engine merge --method ties --base my-model my-chat-finetune --out merged" => {
                (command, &|_| assert!(place.has("merged/model.safetensors")))
            }
            "cpift-engine merge --method ties --base my-model my-chat-finetune --sweep scale=0.4,0.8,1.2 --data chat.eval.jsonl --out tuned" => {
                (command, &|_| {
                    for file in ["model.safetensors", "sweep.json", "report.html"] {
                        assert!(place.has(&format!("tuned/{file}")), "no {file}");
                    }
                })
            }
            "cpift-engine merge merge.yml --out merged-by-configuration" => {
                let text = "merge_method: linear\nparameters: {weight: [1, 0]}\n\
                            models: [{model: my-model}, {model: my-chat-finetune, parameters: {weight: 1}}]\n";
                fs::write(place.path("merge.yml"), text).unwrap();
                (command, &|_| assert!(place.has("merged-by-configuration/model.safetensors")))
            }
            "cpift-engine merge --method average my-model my-chat-finetune --out averaged" => {
                (command, &|_| assert!(place.has("averaged/model.safetensors")))
            }
            "cpift-engine export --base my-model my-chat-finetune --as delta --out delta" => {
                (command, &|said| assert!(said.contains("exported to delta"), "{said}"))
            }
            "cpift-engine apply delta --base my-model --out restored" => {
                (command, &|_| assert!(place.has("restored/model.safetensors")))
            }
            "cpift-engine export --base my-model my-chat-finetune --as delta --fraction 0.01 --out chat-delta" => {
                (command, &|_| assert!(place.has("chat-delta/delta.safetensors")))
            }
            "cpift-engine apply chat-delta --base my-model --out chat-core" => {
                (command, &|_| assert!(place.has("chat-core/model.safetensors")))
            }
            "cpift-engine export --base my-model my-chat-finetune --as lora --rank 8 --out chat-adapter" => {
                (command, &|said| {
                    assert!(said.contains("the whole update") && said.contains("rank 8"), "{said}");
                    assert!(place.has("chat-adapter/adapter_model.safetensors"));
                })
            }
            "cpift-engine generate MODEL --prompt \"2+3=\"" => (command, &|_| {}),
            "cpift-engine bench step --config config.json --batch 4 --length 256" => (command, &|_| {}),
            // Half a second for each of fifty operations: here a few, in small.
            "cpift-engine bench kernels" => {
                ("cpift-engine bench kernels --filter adamw --parameters 1000 --seconds 0", &|table| {
                    assert!(table.contains("adamw"), "{table}")
                })
            }
            "cpift-engine inspect my-model" => (command, &|text| {
                assert!(text.contains("llama") && text.contains("bf16"), "{text}");
            }),
            "cpift-engine devices" => (command, &|text| assert!(text.contains("cpu"), "{text}")),
            "cpift-engine completions bash" => {
                (command, &|text| assert!(text.contains("_cpift__engine"), "{text}"))
            }
            _ => panic!("README.md has a command that is not tested: {command}"),
        };
        finished(stdout(&place.run(run)));
    }
}

/// Every file that "The run folder" of README.md lists.
fn run_folder_is_whole(place: &Workplace, run: &str) {
    let blocks = blocks(&readme());
    let names = block_with(&blocks, "metrics.jsonl").lines().map(without_remark);
    let names: Vec<&str> = names.flat_map(str::split_whitespace).collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        assert!(place.has(&format!("{run}/{name}")), "{run} has no {name}");
    }
    assert!(place.has(&format!("{run}/report.json")));
    for name in ["run.json", "inputs.json", "groups.json", "answers.json", "report.json"] {
        let json = fs::read(place.path(&format!("{run}/{name}"))).unwrap();
        serde_json::from_slice::<Value>(&json).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// The example at the top, from the repository's root with the run folder that is taken when none is named. All of
/// its stages, in a few steps; then the whole run is a run of `--resume` too.
#[test]
fn the_example_runs_from_the_repositorys_root() {
    let command = &commands()[0];
    let place = Workplace::new();
    let few = "--set train.steps=10 --set probe.steps=3 --set integrate.steps=3";
    place.run(&format!("{command} {few} --until probe"));
    assert!(place.has("runs/seesaw/probe") && !place.has("runs/seesaw/final"));
    let resumed = place.run(&format!("{command} {few} --resume"));
    assert!(stderr(&resumed).contains("is complete already"), "{}", stderr(&resumed));
    run_folder_is_whole(&place, "runs/seesaw");
    let again = place.run(&format!("{command} {few} --resume"));
    // But for the seconds that the run has taken, which grow.
    let table = |output: &Output| {
        stdout(output).lines().filter(|line| !line.contains(" steps in ")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(table(&again), table(&resumed));
    place.run("cpift-engine report runs/seesaw");
    assert!(place.has("runs/seesaw/report.html"));
    let figures = "cpift-engine report runs/seesaw --out FILE --figures DIR";
    place.run(figures);
    assert!(place.has("FILE") && place.has("DIR/report.json"));
    // The run folder's recipe can be run itself.
    place.run("cpift-engine train runs/seesaw/recipe.toml --out runs/again --tensorboard");
    assert!(place.has("runs/again/tensorboard"));
    let bits = |run: &str| fs::read(place.path(&format!("{run}/final/model.safetensors"))).unwrap();
    assert!(bits("runs/seesaw") == bits("runs/again"));
}

#[test]
fn the_four_shapes_of_rows_are_read() {
    let blocks = blocks(&readme());
    let rows = block_with(&blocks, "\"completion\"").trim_end();
    assert_eq!(rows.lines().count(), 4);
    let place = Workplace::new();
    let files: Vec<String> = (0..4).map(|shape| format!("shape-{shape}.jsonl")).collect();
    for (file, row) in files.iter().zip(rows.lines()) {
        fs::write(place.path(file), row).unwrap();
    }
    let output = place.run(&format!("cpift-engine eval MODEL --data {} --json", files.join(" ")));
    let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
    for file in scores["files"].as_array().unwrap() {
        assert!(file["tokens"].as_u64().unwrap() > 0, "{file}");
    }
}

/// Command lines and options within sentences: that they exist, since the blocks try what they do.
#[test]
fn commands_within_sentences_exist() {
    let spans = code_spans(&readme());
    let mut options = BTreeSet::new();
    let commands = ["plan", "train", "report", "compare", "eval", "data", "generate", "bench", "devices"];
    for span in &spans {
        let mut words = span.split(' ').skip_while(|&word| word == "cpift-engine").peekable();
        let first = *words.peek().unwrap();
        if first == "cargo" {
            assert!(
                ["cargo ptx", "cargo ptx --check", "cargo ptx --help", "cargo gpu-bundle"]
                    .contains(&span.as_str())
                    || span == "cargo bench -p cpift-benches",
                "README.md has a command that is not tested: {span}"
            );
        } else if commands.contains(&first) || first.starts_with("--") {
            options.extend(words.filter(|word| word.starts_with("--")).map(str::to_owned));
        }
    }
    assert!(options.len() > 12, "{options:?}");
    let help: String = [
        ["train", ""],
        ["plan", ""],
        ["report", ""],
        ["compare", ""],
        ["eval", ""],
        ["data", ""],
        ["cores", ""],
        ["merge", ""],
        ["export", ""],
        ["apply", ""],
        ["generate", ""],
        ["bench", "step"],
        ["bench", "kernels"],
    ]
    .iter()
    .map(|command| {
        let words = command.iter().filter(|word| !word.is_empty());
        let output = engine(&[]).args(words).arg("--help").output().unwrap();
        stdout(&output).to_owned()
    })
    .collect();
    for option in options {
        // Another program's, of which README.md says so.
        if !["--logdir", "--check", "--workspace", "--release"].contains(&option.as_str()) {
            assert!(help.contains(&option), "README.md names {option}, which no help text knows");
        }
    }
}
