//! Which turns of a conversation are learnt, and that finding them costs no more than reading it.

use cpift_model::Tokenizer;
use cpift_model::data::{Dataset, Notice};
use cpift_tests::data::{DataFile, folder_with_template};
use serde_json::{Value, json};

/// With a system prompt of its own, as SmolLM2's.
const WITH_SYSTEM: &str = "{% for m in messages %}{% if loop.first and messages[0].role != 'system' %}\
    {{ '<|im_start|>system\nhelp<|im_end|>\n' }}{% endif %}\
    {{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/// Reads the first message before all others.
const SPOKEN: &str = "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{{ messages[0].content }} {% else %}\
    {% set rest = messages %}{% endif %}{% for m in rest %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}\
    {% if add_generation_prompt %}assistant:{% endif %}";
/// Writes nothing where the last message is the assistant's.
const ASKS_USERS: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
    {% if messages[-1].role == 'user' and add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn load(template: &str, row: Value) -> Result<(String, Vec<Notice>), String> {
    let folder = folder_with_template("chatml", Some(template));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let dataset: Dataset = DataFile::rows(&[row]).load(&tokenizer).map_err(|error| error.to_string())?;
    let notices = dataset.notices().iter().map(|notice| notice.notice.clone()).collect();
    Ok((dataset.masked_sample(0, &tokenizer).unwrap(), notices))
}

/// `transformers` renders no empty conversation, so an answer that comes first is asked for as the template writes it.
#[test]
fn an_answer_that_comes_first_is_learnt_behind_what_the_template_writes_before_it() {
    let row = json!({"messages": [{"role": "assistant", "content": "ready"}]});
    let (text, _) = load(WITH_SYSTEM, row.clone()).unwrap();
    assert_eq!(text, "<|im_start|>system\nhelp<|im_end|>\n<|im_start|>assistant\n⟦ready<|im_end|>⟧");
    assert_eq!(load(SPOKEN, row.clone()).unwrap().0, "assistant:⟦ ready<|im_end|>⟧");
    // Also where its text stands in what the template writes before it.
    for answer in ["a", "help", "system", "s"] {
        let row = json!({"messages": [{"role": "assistant", "content": answer}]});
        let (text, _) = load(WITH_SYSTEM, row).unwrap();
        let expected =
            format!("<|im_start|>system\nhelp<|im_end|>\n<|im_start|>assistant\n⟦{answer}<|im_end|>⟧");
        assert_eq!(text, expected);
    }
    let message = load(ASKS_USERS, row).unwrap_err();
    assert!(message.contains("the answer is the first message"), "{message}");
    assert!(message.contains("put a message of the role `user` before it"), "{message}");
}

/// As `transformers` marks it: what the template writes of the turn is learnt, if only its end, and the missing call is
/// said.
#[test]
fn of_a_call_that_the_template_leaves_out_the_end_of_the_turn_is_learnt() {
    let call = json!({"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "rain", "arguments": {}}}]});
    let user = json!({"role": "user", "content": "rain?"});
    let answer = json!({"role": "assistant", "content": "no"});
    let tool = json!({"role": "tool", "content": "0"});
    let (text, notices) = load(WITH_SYSTEM, json!({"messages": [user, call, tool, answer]})).unwrap();
    assert!(text.contains("assistant\n⟦<|im_end|>⟧"), "{text}");
    assert!(text.ends_with("⟦no<|im_end|>⟧"), "{text}");
    assert_eq!(notices, [Notice::ToolCallsLeftOut]);
}

/// Turns are the same whether the template tells of them by the way or has to be asked for each: one that has to be asked looks at
/// the end of the conversation first.
#[test]
fn turns_are_found_alike_in_one_rendering_and_in_many() {
    let texts = ["a", " b ", "<|im_end|>", "é\n", "世界 <|im_start|>", "assistant\n"];
    let message = |index: usize| {
        let role = if index.is_multiple_of(2) { "user" } else { "assistant" };
        json!({"role": role, "content": format!("{} {index}", texts[index % texts.len()])})
    };
    for count in [2, 4, 6, 40] {
        let messages: Vec<Value> = (0..count).map(message).collect();
        for template in [WITH_SYSTEM, SPOKEN] {
            let asking = format!("{{% if messages[-1] %}}{{% endif %}}{template}");
            let row = json!({"messages": messages});
            let (text, notices) = load(template, row.clone()).unwrap();
            assert_eq!(text.matches('⟦').count(), count / 2, "{text}");
            assert_eq!((text, notices), load(&asking, row).unwrap());
        }
    }
}
