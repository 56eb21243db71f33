//! `generate`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{DeviceArgument, PrecisionArgument, positive};

/// What `generate --help` begins with.
pub const ABOUT: &str = "\
Let a model answer a prompt, a file of prompts, or a person in a conversation.

Without --chat a prompt is a text that the model continues; control strings in it, such as `<|im_end|>`, are the tokens \
they stand for. With --chat it is a user's message, which the folder's chat template writes; control strings in it are \
plain text.

The prompt is --prompt, or all of standard input (a line break at its end left out). With --chat and a terminal as \
standard input it is a conversation: every line is a message, /new forgets what was said, /exit or Ctrl-D ends it, \
Ctrl-C stops an answer. The text appears as it is generated.

--prompts answers the rows of a file, many at a time: JSON Lines, a JSON array, CSV or TSV, also compressed, or \
Parquet, with `prompt` (and `system`, with --chat) or `messages`, or as they are trained on, of which the answers are \
left out. `messages` always go through the chat template. Of a file whose name ends in .txt every line is a prompt. The \
answers are lines of JSON, in --out or on standard output:
  {\"row\", \"prompt\", \"answer\", \"tokens\", \"ended\", \"ids\"}
`row` is the number of the row, or of the line of JSON Lines and text; `ended` is \"stop\" (the model ended the answer), \
\"length\" (it is as long as it may be) or \"stop_string\" (one of --stop came); `ids` are all tokens that were \
generated. --json prints the same for one prompt.

Answers are greedy unless --temperature, --top-k or --top-p is given: then tokens are drawn, in the order and with the \
ties of transformers (temperature, top-k, top-p). The same seed gives the same text; every row of a file has random \
numbers of its own, whatever --batch is.";

/// What `generate --help` ends with.
pub const EXAMPLES: &str = "\
Examples:
  cpift-engine generate runs/seesaw/final --prompt \"sort: dcab =\"
  cpift-engine generate my-model --prompt \"Once upon\" --temperature 0.8 --top-p 0.95
  cpift-engine generate my-model --chat --system \"Answer briefly.\" --prompt \"What is 2+3?\"
  cpift-engine generate my-model --chat
  cpift-engine generate my-model --prompts code.eval.jsonl --stop \"###\" --out generated.jsonl";

/// `generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// The model's folder, or its name on the hub: org/name or org/name@revision.
    #[arg(value_name = "MODEL", value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    /// Text to continue, or with --chat a message to answer; standard input when not given.
    #[arg(long, value_name = "TEXT", conflicts_with = "prompts", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// A file of prompts.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub prompts: Option<PathBuf>,
    /// Write the answers to --prompts into this file, whole or not at all; standard output when not given.
    #[arg(long, value_name = "FILE", requires = "prompts", conflicts_with = "prompt", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Prompts answered at a time; 16 on a CPU and 128 on a GPU when not given. It changes no answer.
    #[arg(long, value_name = "N", requires = "prompts", conflicts_with = "prompt", value_parser = positive)]
    pub batch: Option<usize>,
    /// Let the folder's chat template write prompts, as messages of a user.
    #[arg(long)]
    pub chat: bool,
    /// System message of conversations that have none of their own.
    #[arg(long, value_name = "TEXT", requires = "chat", allow_hyphen_values = true)]
    pub system: Option<String>,
    /// Most tokens of an answer; 128 when not given, 1024 in conversations.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub max_new_tokens: Option<usize>,
    /// Text before which the answer ends; a control string is the token it stands for. May be given several times.
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Draw from the distribution at this temperature; 1 when not given and --top-k or --top-p is.
    #[arg(long, value_name = "T", value_parser = temperature)]
    pub temperature: Option<f32>,
    /// Draw from the K most likely tokens, and those as likely as the last of them.
    #[arg(long, value_name = "K", value_parser = positive)]
    pub top_k: Option<usize>,
    /// Draw from the fewest most likely tokens whose probabilities sum up to P, behind --top-k.
    #[arg(long, value_name = "P", value_parser = probability)]
    pub top_p: Option<f64>,
    /// Seed of the draw.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print the answer to one prompt as JSON.
    #[arg(long, conflicts_with = "prompts")]
    pub json: bool,
    /// What to compute in.
    #[command(flatten)]
    pub precision: PrecisionArgument,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgument,
}

fn temperature(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number: &f32| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "use a number above 0, or leave the option out for greedy answers".to_owned())
}

fn probability(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && *number <= 1.0);
    number.ok_or_else(|| "use a number above 0 and up to 1".to_owned())
}
