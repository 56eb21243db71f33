//! Writes everything in examples/seesaw that is made by a program: the five tasks, the mixture the base
//! model is trained on, the tokenizer and the model's configuration.
//!
//! `cargo run --release --example seesaw-data [FOLDER]`, FOLDER being `examples/seesaw` if not given. The
//! same program writes the same bytes every time.
//!
//! Every row is about two numbers of three digits up to 4, `143+302`: digits can be added one by one, since
//! nothing is carried. The base model learns to obey a code before them (`As:143+302=` asks for the sum,
//! spaced: `4 4 5`) and to repeat them where no code is given. Each task
//! then gives the numbers *without* a code and wants its own answer: five conventions for one question,
//! told apart only by the mark or the template around it, which the base learnt to ignore.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};

/// Rows of each task's training file: about three epochs in a probe.
const TRAIN_ROWS: usize = 2_000;
/// Rows of each task's evaluation file.
const EVAL_ROWS: usize = 100;
/// Rows of the base mixture in the plain shape; the two templates have a third of it each.
const BASE_ROWS: usize = 90_000;
/// One in so many pairs of numbers is kept for evaluation and never trained on, by any task.
const EVAL_SHARE: u32 = 17;

/// What is computed from two numbers, digit by digit.
#[derive(Clone, Copy)]
enum Operation {
    /// Both numbers again, `143+302`.
    Echo,
    /// The sum, `445`.
    Add,
    /// The larger digits, `343`.
    Maximum,
    /// The smaller digits, `102`.
    Minimum,
    /// Whether the left digit is at least the right one, `FTT`.
    Compare,
    /// Both numbers as one text, `143302`.
    Join,
    /// The numbers in the other order, `302+143`.
    Swap,
}

/// How the result is written.
#[derive(Clone, Copy)]
enum Style {
    /// As it is, `445`.
    Plain,
    /// With spaces between, `4 4 5`.
    Spaced,
    /// In brackets, `(445)`.
    Bracketed,
    /// Digits as letters from `a` on, other letters small, `eef`.
    Letters,
}

/// The text around a question.
#[derive(Clone, Copy)]
enum Template {
    /// `{"prompt", "completion"}`, the prompt ended by this mark.
    Plain(char),
    /// `{"instruction", "input", "output"}`.
    Instruction,
    /// `{"messages"}`.
    Chat,
}

struct Task {
    name: &'static str,
    template: Template,
    operation: Operation,
    style: Style,
}

const OPERATIONS: [(char, Operation); 7] = [
    ('E', Operation::Echo),
    ('A', Operation::Add),
    ('M', Operation::Maximum),
    ('I', Operation::Minimum),
    ('G', Operation::Compare),
    ('J', Operation::Join),
    ('W', Operation::Swap),
];

const STYLES: [(&str, Style); 4] =
    [("", Style::Plain), ("s", Style::Spaced), ("b", Style::Bracketed), ("l", Style::Letters)];

const MARKS: [char; 3] = ['=', ';', '?'];

const TASKS: [Task; 5] = [
    Task {
        name: "arithmetic",
        template: Template::Plain('='),
        operation: Operation::Add,
        style: Style::Plain,
    },
    Task {
        name: "code",
        template: Template::Plain(';'),
        operation: Operation::Join,
        style: Style::Bracketed,
    },
    Task {
        name: "logic",
        template: Template::Plain('?'),
        operation: Operation::Compare,
        style: Style::Letters,
    },
    Task {
        name: "instruction",
        template: Template::Instruction,
        operation: Operation::Swap,
        style: Style::Letters,
    },
    Task { name: "chat", template: Template::Chat, operation: Operation::Maximum, style: Style::Spaced },
];

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("examples/seesaw"), PathBuf::from);
    fs::create_dir_all(folder.join("blank"))?;
    let write_json = |name: &str, value: &Value| -> io::Result<()> {
        fs::write(folder.join("blank").join(name), format!("{value:#}\n"))
    };
    write_json("config.json", &model_config(128, 4, 4))?;
    write_json("config-small.json", &model_config(32, 2, 2))?;
    write_json("generation_config.json", &json!({"bos_token_id": BEGIN, "eos_token_id": END}))?;
    write_json("tokenizer.json", &tokenizer())?;
    write_json("tokenizer_config.json", &tokenizer_config())?;

    for (index, task) in TASKS.iter().enumerate() {
        let seed = 100 + index as u64;
        write_rows(&folder, &format!("{}.train", task.name), TRAIN_ROWS, seed, |random| {
            task.row(random, false)
        })?;
        write_rows(&folder, &format!("{}.eval", task.name), EVAL_ROWS, seed, |random| {
            task.row(random, true)
        })?;
    }
    fs::create_dir_all(folder.join("mixture"))?;
    let mixture = [("plain", BASE_ROWS), ("instruction", BASE_ROWS / 3), ("chat", BASE_ROWS / 3)];
    for (index, (name, rows)) in mixture.into_iter().enumerate() {
        let seed = 200 + index as u64;
        let row = |random: &mut ChaCha8Rng, held_out| {
            let template = match name {
                "plain" => Template::Plain(MARKS[random.random_range(0..MARKS.len())]),
                "instruction" => Template::Instruction,
                _ => Template::Chat,
            };
            mixture_row(random, held_out, template)
        };
        write_rows(&folder, &format!("mixture/{name}.train"), rows, seed, |random| row(random, false))?;
        write_rows(&folder, &format!("mixture/{name}.eval"), 2 * EVAL_ROWS, seed, |random| {
            row(random, true)
        })?;
    }
    Ok(())
}

/// Writes `count` rows, one JSON document a line.
fn write_rows(
    folder: &Path,
    name: &str,
    count: usize,
    seed: u64,
    mut row: impl FnMut(&mut ChaCha8Rng) -> Value,
) -> io::Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::new();
    for _ in 0..count {
        writeln!(text, "{}", row(&mut random)).expect("writing into a string cannot fail");
    }
    fs::write(folder.join(format!("{name}.jsonl")), text)
}

impl Task {
    fn row(&self, random: &mut ChaCha8Rng, held_out: bool) -> Value {
        let (left, right) = numbers(random, held_out);
        let answer = self.style.apply(&self.operation.apply(&left, &right));
        self.template.render(None, &format!("{left}+{right}"), &answer)
    }
}

/// A row the base learns from: one in eight has no code and is to be repeated.
fn mixture_row(random: &mut ChaCha8Rng, held_out: bool, template: Template) -> Value {
    let (left, right) = numbers(random, held_out);
    let question = format!("{left}+{right}");
    if random.random_range(0..8) == 0 {
        return template.render(None, &question, &question);
    }
    let (letter, operation) = OPERATIONS[random.random_range(0..OPERATIONS.len())];
    let (suffix, style) = STYLES[random.random_range(0..STYLES.len())];
    let answer = style.apply(&operation.apply(&left, &right));
    template.render(Some(&format!("{letter}{suffix}")), &question, &answer)
}

/// Two numbers of three digits up to 4, as text; `held_out` says from which side of the split.
fn numbers(random: &mut ChaCha8Rng, held_out: bool) -> (String, String) {
    loop {
        let digits: [u32; 6] = std::array::from_fn(|_| random.random_range(0..=4));
        let pair = digits.iter().fold(0, |number, digit| 5 * number + digit);
        if pair.is_multiple_of(EVAL_SHARE) == held_out {
            let text: String = digits.iter().map(u32::to_string).collect();
            return (text[..3].to_owned(), text[3..].to_owned());
        }
    }
}

impl Operation {
    fn apply(self, left: &str, right: &str) -> String {
        let digits = left.bytes().zip(right.bytes()).map(|(left, right)| (left - b'0', right - b'0'));
        match self {
            Self::Echo => format!("{left}+{right}"),
            Self::Join => format!("{left}{right}"),
            Self::Swap => format!("{right}+{left}"),
            Self::Add => digits.map(|(left, right)| digit(left + right)).collect(),
            Self::Maximum => digits.map(|(left, right)| digit(left.max(right))).collect(),
            Self::Minimum => digits.map(|(left, right)| digit(left.min(right))).collect(),
            Self::Compare => digits.map(|(left, right)| if left >= right { 'T' } else { 'F' }).collect(),
        }
    }
}

fn digit(value: u8) -> char {
    char::from(b'0' + value)
}

impl Style {
    fn apply(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Bracketed => format!("({text})"),
            Self::Spaced => text.chars().map(String::from).collect::<Vec<_>>().join(" "),
            Self::Letters => text
                .chars()
                .map(|character| match character {
                    '0'..='9' => char::from(character as u8 - b'0' + b'a'),
                    other => other.to_ascii_lowercase(),
                })
                .collect(),
        }
    }
}

impl Template {
    /// One row in this shape; without a code the question stands alone.
    fn render(self, code: Option<&str>, question: &str, answer: &str) -> Value {
        let prefix = code.map(|code| format!("{code}:")).unwrap_or_default();
        match self {
            Self::Plain(mark) => json!({"prompt": format!("{prefix}{question}{mark}"), "completion": answer}),
            Self::Instruction => {
                json!({"instruction": code.unwrap_or("do"), "input": question, "output": answer})
            }
            Self::Chat => json!({"messages": [
                {"role": "user", "content": format!("{prefix}{question}")},
                {"role": "assistant", "content": answer},
            ]}),
        }
    }
}

/// The first token of every text.
const BEGIN: u32 = 256;
/// The token that ends an answer.
const END: u32 = 257;

/// Control tokens, then the fixed parts of the instruction template: 60 bytes and more each, they are one
/// token so that an instruction is no longer than the other rows.
const ADDED_TOKENS: [(&str, bool); 7] = [
    ("<|begin|>", true),
    ("<|end|>", true),
    ("<|user|>", true),
    ("<|assistant|>", true),
    (
        "Below is an instruction that describes a task, paired with an input that provides further context. \
         Write a response that appropriately completes the request.\n\n### Instruction:\n",
        false,
    ),
    ("\n\n### Input:\n", false),
    ("\n\n### Response:\n", false),
];

/// A Llama with two heads of keys and values.
fn model_config(hidden: usize, layers: usize, heads: usize) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 256 + ADDED_TOKENS.len() + 1,
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "head_dim": hidden / heads,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
        "attention_bias": false,
        "mlp_bias": false,
        "initializer_range": 0.05,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "torch_dtype": "float32",
    })
}

/// A tokenizer in which every byte is a token, as GPT-2 spells bytes, with the tokens added above.
fn tokenizer() -> Value {
    let vocabulary: serde_json::Map<String, Value> = byte_spelling()
        .into_iter()
        .enumerate()
        .map(|(byte, spelling)| (spelling.to_string(), json!(byte)))
        .collect();
    let added: Vec<Value> = ADDED_TOKENS
        .iter()
        .enumerate()
        .map(|(index, (content, special))| {
            json!({
                "id": 256 + index, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": special,
            })
        })
        .collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|begin|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "<|begin|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [BEGIN], "tokens": ["<|begin|>"]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [],
        },
    })
}

fn tokenizer_config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "pad_token": "<|end|>",
        "add_bos_token": true,
        "clean_up_tokenization_spaces": false,
        "model_max_length": 64,
        "chat_template": "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}\
            <|user|>{{ message['content'] }}{% else %}<|assistant|>{{ message['content'] }}<|end|>\
            {% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    })
}

/// The character that stands for each byte in a byte-level vocabulary: itself where it is printable and no
/// space, else the next unused one from U+0100 on.
fn byte_spelling() -> Vec<char> {
    let mut unused = '\u{100}'..;
    (0..=u8::MAX)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => unused.next().expect("there are more characters than bytes"),
        })
        .collect()
}
