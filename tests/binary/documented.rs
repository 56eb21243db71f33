//! Commands as README.md and `--help` write them, and a folder in which they mean what they say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use cpift_tests::folders;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{engine, stderr, stdout};

/// Name of the folder that the commands run in, and so of the run of its recipe.toml: README.md calls it NAME.
const NAME: &str = "NAME";

/// README.md of the repository.
pub fn readme() -> String {
    fs::read_to_string(folders::tests().join("../README.md")).unwrap()
}

/// The indented blocks of a text, without their indentation.
pub fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::<String>::new();
    let mut inside = false;
    for line in text.lines() {
        match line.strip_prefix("    ") {
            Some(line) if inside => blocks.last_mut().unwrap().extend([line, "\n"]),
            Some(line) => blocks.push(format!("{line}\n")),
            // An empty line does not end a block.
            None if line.is_empty() && inside => blocks.last_mut().unwrap().push('\n'),
            None => {}
        }
        inside = line.starts_with("    ") || (inside && line.is_empty());
    }
    blocks
}

/// The block that contains `text`.
pub fn block_with<'a>(blocks: &'a [String], text: &str) -> &'a str {
    blocks.iter().find(|block| block.contains(text)).unwrap_or_else(|| panic!("no block with {text}"))
}

/// A command line as it is written, without the remark that follows it after several spaces.
pub fn without_remark(line: &str) -> &str {
    let line = line.trim();
    line.find("  ").map_or(line, |end| &line[..end])
}

/// What stands between single backquotes, across line ends.
pub fn code_spans(text: &str) -> Vec<String> {
    let prose: Vec<&str> = text.lines().filter(|line| !line.starts_with("    ")).collect();
    prose.join(" ").split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Words of a command line; double quotes hold words together.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in command.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            letter => words.last_mut().unwrap().push(letter),
        }
    }
    words
}

/// A folder with everything that the commands name.
pub struct Workplace {
    temporary: TempDir,
}

impl Workplace {
    /// Models, data files and the recipe of README.md.
    pub fn new() -> Self {
        let place = Self { temporary: TempDir::new().unwrap() };
        fs::create_dir_all(place.path("")).unwrap();
        folders::copy_without(&folders::seesaw(), &place.path("examples/seesaw"), &["study"]);
        place.keep_rows_to_evaluate_on(10);
        for model in ["my-model", "MODEL"] {
            folders::copy(&folders::seesaw().join("base-small"), &place.path(model));
            // As much as the recipe asks for.
            let config = fs::read_to_string(place.path(model).join("config.json")).unwrap();
            let mut config: Value = serde_json::from_str(&config).unwrap();
            config["max_position_embeddings"] = 512.into();
            fs::write(place.path(model).join("config.json"), config.to_string()).unwrap();
        }
        fs::copy(place.path("my-model/config.json"), place.path("config.json")).unwrap();
        let head = |task: &str, rows: usize, name: &str| {
            let text = fs::read_to_string(place.path(&format!("examples/seesaw/{task}"))).unwrap();
            let rows: Vec<&str> = text.lines().take(rows).collect();
            fs::write(place.path(name), rows.join("\n")).unwrap();
        };
        for task in ["code", "chat"] {
            head(&format!("{task}.train.jsonl"), 32, &format!("{task}.train.jsonl"));
            head(&format!("{task}.eval.jsonl"), 8, &format!("{task}.eval.jsonl"));
        }
        head("code.train.jsonl", 32, "code.jsonl");
        for (name, task) in [("sort.jsonl", "logic"), ("a.jsonl", "arithmetic"), ("b.jsonl", "chat")] {
            head(&format!("{task}.eval.jsonl"), 8, name);
        }
        fs::write(place.path("recipe.toml"), block_with(&blocks(&readme()), "[[task]]")).unwrap();
        place.make_fine_tune();
        place
    }

    /// Leaves so many of every task of the example: how good its models are is not what these tests ask.
    fn keep_rows_to_evaluate_on(&self, rows: usize) {
        for file in fs::read_dir(self.path("examples/seesaw")).unwrap().map(|entry| entry.unwrap().path()) {
            if file.to_str().unwrap().ends_with(".eval.jsonl") {
                let text = fs::read_to_string(&file).unwrap();
                fs::write(&file, text.lines().take(rows).collect::<Vec<_>>().join("\n")).unwrap();
            }
        }
    }

    /// The fine-tune that the recipe names: a step of training on the base.
    fn make_fine_tune(&self) {
        let recipe = "[model]\nbase = \"my-model\"\nmax_length = 512\n[[task]]\nname = \"chat\"\n\
                      train = \"chat.train.jsonl\"\n[train]\nsteps = 1\n";
        fs::write(self.path("fine-tune.toml"), recipe).unwrap();
        self.run("cpift-engine train fine-tune.toml --set method=joint");
        fs::rename(self.path("runs/fine-tune/final"), self.path("my-chat-finetune")).unwrap();
        fs::remove_dir_all(self.path("runs")).unwrap();
    }

    /// A path in the folder that commands run in.
    pub fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(NAME).join(name)
    }

    /// Whether there is something at a path in the folder.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Removes a folder, so that a command that makes it can run again.
    pub fn clear(&self, name: &str) {
        if self.has(name) {
            fs::remove_dir_all(self.path(name)).unwrap();
        }
    }

    /// Runs a command as it is written and expects success. `> FILE` writes the file's name here.
    pub fn run(&self, command: &str) -> Output {
        let (command, target) = command.split_once(" > ").map_or((command, None), |(c, t)| (c, Some(t)));
        let arguments = command
            .strip_prefix("cpift-engine ")
            .or_else(|| command.strip_prefix("cargo run --release -- "))
            .unwrap_or_else(|| panic!("not a command of the binary: {command}"));
        let output = engine(&[]).args(words(arguments)).current_dir(self.path("")).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}: {}", stderr(&output));
        if let Some(target) = target {
            assert!(!stdout(&output).is_empty(), "{command}");
            fs::write(self.path("").join(Path::new(target).file_name().unwrap()), &output.stdout).unwrap();
        }
        output
    }
}
