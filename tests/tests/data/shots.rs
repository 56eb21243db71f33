//! Few-shot prompts: examples before evaluation rows.

use cpift_model::data::{DataSettings, Dataset, Shots};
use cpift_model::{Error, Tokenizer};
use cpift_tests::data::{DataFile, chat, folder_with_template, tokenizer};
use serde_json::{Value, json};

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn question(question: &str, answer: &str) -> Value {
    json!({"prompt": format!("Q: {question}\nA:"), "completion": format!(" {answer}")})
}

fn draw(examples: &[Value], count: usize, seed: u64) -> Result<Shots, Error> {
    let file = DataFile::rows(examples);
    Shots::draw(
        std::slice::from_ref(&file.path),
        count,
        seed,
        &DataSettings::default(),
        &tokenizer("chatml"),
        None,
    )
}

fn end(shots: &Shots) -> Option<String> {
    shots.end(&DataSettings::default(), &tokenizer("chatml"))
}

/// The rows of a file with examples before them, what is learnt between brackets.
fn with_shots(tokenizer: &Tokenizer, shots: &Shots, rows: &[Value]) -> Result<Vec<String>, Error> {
    let file = DataFile::rows(rows);
    let settings = DataSettings { shots: shots.clone(), ..DataSettings::default() };
    let dataset = Dataset::load(std::slice::from_ref(&file.path), tokenizer, &settings, None)?;
    Ok((0..dataset.len()).map(|row| dataset.masked_sample(row, tokenizer).unwrap()).collect())
}

#[test]
fn examples_of_text_stand_before_the_prompt() {
    let tokenizer = tokenizer("chatml");
    let examples = [question("one", "1"), question("two", "2\n"), question("three", "3")];
    let shots = draw(&examples, 2, 0).unwrap();
    let rows = with_shots(&tokenizer, &shots, &[question("four", "4"), question("five", "5")]).unwrap();
    // The draw of seed 0 is the first and the last.
    let before = "Q: one\nA: 1\n\nQ: three\nA: 3\n\n";
    assert_eq!(rows[0], format!("{before}Q: four\nA:⟦ 4<|im_end|>⟧"));
    assert_eq!(rows[1], format!("{before}Q: five\nA:⟦ 5<|im_end|>⟧"));
    // A model would go on with another question.
    assert_eq!(end(&shots).as_deref(), Some("\n\nQ:"));
    // The same seed draws the same, and some other seed others.
    assert_eq!(draw(&examples, 2, 0).unwrap(), shots);
    assert!((1..20).any(|seed| draw(&examples, 2, seed).unwrap() != shots));
}

#[test]
fn a_row_is_no_example_for_itself() {
    let tokenizer = tokenizer("chatml");
    let examples = [question("one", "1"), question("two", "2"), question("three", "3")];
    let shots = draw(&examples, 2, 0).unwrap();
    for (row, text) in examples.iter().zip(with_shots(&tokenizer, &shots, &examples).unwrap()) {
        let prompt = row["prompt"].as_str().unwrap();
        assert_eq!(text.matches(prompt).count(), 1, "{text}");
        assert_eq!(text.matches("Q:").count(), 3, "two examples and the row: {text}");
    }
}

#[test]
fn examples_of_messages_are_earlier_turns_that_are_not_learnt() {
    let folder = folder_with_template("chatml", Some(CHATML));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let example = chat(&[("system", "other"), ("user", "one"), ("assistant", "1")]);
    let shots = draw(&[example], 1, 0).unwrap();
    assert_eq!(end(&shots), None);
    let row = chat(&[("system", "terse"), ("user", "two"), ("assistant", "2")]);
    assert_eq!(
        with_shots(&tokenizer, &shots, &[row]).unwrap(),
        [
            "<|im_start|>system\nterse<|im_end|>\n<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n\
          <|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\n⟦2<|im_end|>⟧"
        ]
    );
}

#[test]
fn what_cannot_be_an_example_is_refused() {
    let says = |shots: Result<Shots, Error>, expected: &str| {
        let error = shots.unwrap_err();
        assert!(error.is_input() && error.to_string().contains(expected), "{error}");
    };
    says(draw(&[json!({"text": "a"}), json!({"text": "b"})], 1, 0), "is `text`, which cannot be an example");
    says(draw(&[question("one", "1")], 2, 0), "has 1 rows that can be examples, and `shots` asks for 2");
    let mut tools = chat(&[("user", "one"), ("assistant", "1")]);
    tools["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    says(draw(&[tools], 1, 0), "has `tools`, and cannot be an example");
    says(draw(&[json!({"prompt": "x"})], 1, 0), "data.jsonl:1: ");

    let shots = draw(&[question("one", "1")], 1, 0).unwrap();
    let row = chat(&[("user", "two"), ("assistant", "2")]);
    let error = with_shots(&tokenizer("chatml"), &shots, &[row]).unwrap_err().to_string();
    assert!(error.contains("cannot have examples before it"), "{error}");
}

#[test]
fn what_ends_an_answer_is_what_all_examples_begin_with() {
    let end = |rows: &[Value]| end(&draw(rows, rows.len(), 0).unwrap());
    let row = |prompt: &str, completion: &str| json!({"prompt": prompt, "completion": completion});
    assert_eq!(end(&[row("a?", "1"), row("b?", "2")]).as_deref(), Some("\n\n"));
    // Answers of several paragraphs: a blank line does not end them.
    assert_eq!(end(&[row("a?", "1\n\nso"), row("b?", "2")]), None);
    assert_eq!(end(&[row("### Do\na", "1"), row("### Do\nb", "2")]).as_deref(), Some("\n\n### Do"));
}
