//! Forms of rows: by which fields they are read, what they become, and what is learnt of them.

use cpift_model::Tokenizer;
use cpift_model::data::{DataSettings, Dataset, Notice, RowFormat};
use cpift_model::recipe::{ModelSettings, SpecialTokens, TaskSettings};
use cpift_tests::data::{DataFile, FOLDERS, chat, folder_with_template, tokenizer};
use serde_json::{Value, json};

/// The settings of a task with these keys.
fn settings(task: Value) -> DataSettings {
    let task: TaskSettings = serde_json::from_value(task).unwrap();
    DataSettings::of_task(&ModelSettings { max_length: 4096, ..ModelSettings::default() }, &task)
}

fn load(tokenizer: &Tokenizer, task: Value, rows: &[Value]) -> Result<Dataset, String> {
    let file = DataFile::rows(rows);
    let loaded = Dataset::load(std::slice::from_ref(&file.path), tokenizer, &settings(task), None);
    loaded.map_err(|error| {
        let message = error.to_string();
        assert!(error.is_input() && !message.contains('\n'), "{message}");
        message.strip_prefix(file.path.to_str().unwrap()).expect(&message).to_owned()
    })
}

/// The rows with what is learnt between brackets, and the notices.
fn learnt(tokenizer: &Tokenizer, task: Value, row: Value) -> (Vec<String>, Vec<Notice>) {
    let dataset = load(tokenizer, task, &[row]).unwrap();
    let rows = (0..dataset.len()).map(|row| dataset.masked_sample(row, tokenizer).unwrap()).collect();
    (rows, dataset.notices().iter().map(|notice| notice.notice.clone()).collect())
}

fn refused(task: Value, rows: &[Value], expected: &str) {
    let message = load(&tokenizer("chatml"), task, rows).err().unwrap_or_else(|| panic!("{rows:?}"));
    assert!(message.contains(expected), "{message:?} is not {expected:?}");
}

/// A folder whose template writes contents and nothing else.
fn contents_only() -> Tokenizer {
    let template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
                    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    Tokenizer::from_folder(folder_with_template("chatml", Some(template)).path()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

// Golden values: golden/rows.py.
#[test]
fn rows_of_every_form_have_the_ids_that_transformers_makes_of_their_messages() {
    let path = cpift_tests::folders::tests().join("golden/rows.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let tokenizer = tokenizer(case["tokenizer"].as_str().unwrap());
        let dataset = load(&tokenizer, case["task"].clone(), &[case["row"].clone()]).unwrap();
        assert_eq!(dataset.format(), RowFormat::Messages, "{name}");
        let expected = case["rows"].as_array().unwrap();
        assert_eq!(dataset.len(), expected.len(), "{name}");
        for (row, expected) in dataset.rows().iter().zip(expected) {
            let whole = ids(&expected["whole"]);
            assert_eq!(row.tokens, whole[..row.tokens.len()], "{name}");
            assert_eq!(tokenizer.decode(&whole[row.tokens.len()..]).trim(), "", "{name}");
            assert_eq!(row.prompt(), ids(&expected["prompt"]), "{name}");
            if let Some(first) = expected["first"].as_u64() {
                let learnt = row.supervised.iter().position(|&supervised| supervised);
                assert_eq!(learnt, Some(first as usize), "{name}");
            }
        }
    }
}

#[test]
fn ids_are_those_of_the_text_and_those_before_the_answer_of_the_prompt() {
    let texts = ["the lazy dog", " why?\n", "<|im_end|> é", "世界\n\n7", "a  b"];
    for name in FOLDERS {
        let tokenizer = tokenizer(name);
        for (prompt, answer) in texts.iter().flat_map(|prompt| texts.map(|answer| (*prompt, answer))) {
            let rows = [
                (json!({"chat": false}), json!({"question": prompt, "answer": answer})),
                (json!({"prompt": "{{p}}", "answer": "{{a}}"}), json!({"p": prompt, "a": answer})),
                (json!({}), json!({"prompt": prompt, "completion": answer})),
            ];
            for (mut task, row) in rows {
                task["special_tokens"] = json!("escape");
                let (prompt, answer) = match row.get("question") {
                    Some(_) => (format!("Question: {prompt}\nAnswer:"), format!(" {answer}")),
                    None => (prompt.to_owned(), answer.to_owned()),
                };
                let dataset = load(&tokenizer, task, &[row]).unwrap();
                let row = &dataset.rows()[0];
                let generated = tokenizer.encode_prompt(&prompt, SpecialTokens::Escape).unwrap();
                assert_eq!(row.prompt(), generated, "{name}: {prompt:?}");
                let text = tokenizer.decode(&row.tokens);
                assert_eq!(text.trim(), format!("{prompt}{answer}").trim(), "{name}");
                assert_eq!(row.supervised_tokens(), row.answer().len(), "{name}");
            }
        }
    }
}

#[test]
fn questions_become_messages_where_there_is_a_template() {
    let row = json!({"query": "why?", "response": "seven"});
    let (rows, notices) = learnt(&contents_only(), json!({}), row.clone());
    assert_eq!(rows, ["<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n⟦seven<|im_end|>⟧"]);
    assert_eq!(notices, []);
    let as_text = ["Question: why?\nAnswer:⟦ seven<|im_end|>⟧"];
    assert_eq!(learnt(&contents_only(), json!({"chat": false}), row.clone()).0, as_text);
    let bare = Tokenizer::from_folder(folder_with_template("chatml", None).path()).unwrap();
    assert_eq!(learnt(&bare, json!({}), row.clone()).0, as_text);
    let message = Dataset::load(
        std::slice::from_ref(&DataFile::rows(&[row]).path),
        &bare,
        &settings(json!({"chat": true})),
        None,
    );
    assert!(message.unwrap_err().to_string().contains("no chat template"));
}

#[test]
fn texts_stay_texts_unless_the_recipe_says_chat() {
    let tokenizer = contents_only();
    let pair = json!({"prompt": "why? ", "completion": "seven", "system": "be brief"});
    let (rows, notices) = learnt(&tokenizer, json!({}), pair.clone());
    assert_eq!((rows[0].as_str(), notices.len()), ("why? ⟦seven<|im_end|>⟧", 1));
    let (rows, notices) = learnt(&tokenizer, json!({"chat": true}), pair);
    assert!(rows[0].starts_with("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nwhy? <|im_end|>"));
    assert_eq!(notices, []);
    let made = json!({"prompt": "Q: {{q}}\n", "answer": "{{ a or 'none' }}", "system": "s {{q}}"});
    let row = json!({"q": "why", "a": null});
    let (rows, _) = learnt(&tokenizer, made.clone(), row.clone());
    let expected = "<|im_start|>system\ns why<|im_end|>\n<|im_start|>user\nQ: why\n<|im_end|>\n\
                    <|im_start|>assistant\n⟦none<|im_end|>⟧";
    assert_eq!(rows, [expected]);
    let mut made = made;
    made.as_object_mut().unwrap().remove("system");
    assert_eq!(learnt(&tokenizer, made, row).0, ["Q: why\n⟦none<|im_end|>⟧"]);
    // An instruction keeps Alpaca's form, unless its rows have turns.
    let alpaca = json!({"instruction": "add", "input": "3 4", "output": "7"});
    let dataset = load(&tokenizer, json!({}), std::slice::from_ref(&alpaca)).unwrap();
    assert_eq!(dataset.format(), RowFormat::Instruction);
    let (rows, _) = learnt(&tokenizer, json!({"chat": true}), alpaca);
    assert_eq!(rows, ["<|im_start|>user\nadd\n3 4<|im_end|>\n<|im_start|>assistant\n⟦7<|im_end|>⟧"]);
}

#[test]
fn turns_beside_an_instruction_are_learnt_or_refused() {
    let row = json!({"instruction": "a", "output": "b", "system": "s", "history": [["c", "d"]]});
    let turns = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n";
    let rest = "\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧";
    let tokenizer = contents_only();
    assert_eq!(learnt(&tokenizer, json!({}), row.clone()).0, [format!("{turns}⟦d<|im_end|>⟧{rest}")]);
    let last = json!({"learn": "last"});
    assert_eq!(learnt(&tokenizer, last, row.clone()).0, [format!("{turns}d<|im_end|>{rest}")]);
    refused(json!({"chat": false}), &[row], ":1: has a `system`, for which a prompt as a text has no place");
    let plain = json!({"instruction": "a", "output": "b"});
    let later = json!({"instruction": "a", "output": "b", "history": [["c", "d"]]});
    refused(json!({}), &[plain, later], ":2: has a `history`, for which");
    for history in [json!([["c"]]), json!(["c"]), json!("c"), json!([["c", ""]])] {
        let row = json!({"instruction": "a", "output": "b", "history": history});
        refused(json!({}), &[row], ":1: `history` ");
    }
}

#[test]
fn calls_are_learnt_as_their_json_where_the_template_does_not_write_them() {
    let call = r#"{"name": "rain", "arguments": {"city": "Rome"}}"#;
    let row = json!({"id": 7, "conversations": [
        {"from": "human", "value": "rain?"}, {"from": "function_call", "value": call},
        {"from": "observation", "value": "no"}, {"from": "gpt", "value": "None."}]});
    let (rows, notices) = learnt(&contents_only(), json!({}), row);
    let expected = format!(
        "<|im_start|>user\nrain?<|im_end|>\n<|im_start|>assistant\n⟦{call}<|im_end|>⟧\n<|im_start|>tool\nno<|im_end|>\n\
         <|im_start|>assistant\n⟦None.<|im_end|>⟧"
    );
    assert_eq!(rows, [expected]);
    assert_eq!(notices, [Notice::UnreadField("id".into()), Notice::CallsAsText]);
    let part = json!({"type": "tool_call", "value": call});
    let answer = |parts: Value| json!({"messages": [{"role": "user", "content": "rain?"}, {"role": "assistant", "content": parts}]});
    let (rows, _) = learnt(&contents_only(), json!({}), answer(json!([part, part])));
    assert!(rows[0].ends_with(&format!("⟦[{call}, {call}]<|im_end|>⟧")), "{rows:?}");
    refused(
        json!({}),
        &[answer(json!([{"type": "tool_call", "value": "rain"}]))],
        "message 2 calls a function by",
    );
    refused(
        json!({}),
        &[answer(json!([{"type": "reasoning"}]))],
        "message 2 has a part of reasoning without",
    );
}

#[test]
fn share_gpts_senders_are_known_by_name() {
    for (human, assistant) in [("human", "gpt"), ("user", "chatgpt"), ("User", "bing"), ("prompter", "bard")]
    {
        for (from, value) in [("from", "value"), ("role", "content")] {
            let message = |sender: &str, text: &str| json!({from: sender, value: text});
            let row = json!({"conversations": [message(human, "why?"), message(assistant, "seven")]});
            let (rows, notices) = learnt(&contents_only(), json!({}), row);
            assert_eq!(rows, ["<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n⟦seven<|im_end|>⟧"]);
            assert_eq!(notices, []);
        }
    }
    let row = |first: Value| json!({"conversations": [first, {"from": "gpt", "value": "b"}]});
    refused(
        json!({}),
        &[row(json!({"from": "clown", "value": "a"}))],
        ":1: message 1 is from `clown`, which",
    );
    refused(json!({}), &[row(json!("a"))], ":1: message 1 is not an object");
    refused(json!({}), &[json!({"conversations": 7})], ":1: `conversations` is not a list");
    let doubled = json!({"system": "a", "conversations": [{"from": "system", "value": "b"}, {"from": "gpt", "value": "c"}]});
    refused(json!({}), &[doubled], ":1: has a `system` beside a message of the role `system`");
}

#[test]
fn only_answers_of_a_completion_are_learnt() {
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let row = json!({
        "prompt": [message("user", "a"), message("assistant", "b"), message("user", "c")],
        "completion": [message("assistant", "d"), message("user", "e"), message("assistant", "f")],
    });
    let (rows, notices) = learnt(&contents_only(), json!({}), row.clone());
    let parts: Vec<&str> = rows[0].split('⟦').skip(1).map(|part| part.split('⟧').next().unwrap()).collect();
    assert_eq!(parts, ["d<|im_end|>", "f<|im_end|>"]);
    assert_eq!(notices, [Notice::CompletionContext]);
    refused(
        json!({"chat": false}),
        std::slice::from_ref(&row),
        ":1: is a conversation, which task.chat = false",
    );
    let unanswered = json!({"prompt": [message("user", "a")], "completion": [message("user", "b")]});
    refused(json!({}), &[unanswered], ":1: has no message of the role `assistant` in `completion`");
    let mixed = json!({"prompt": "a", "completion": row["completion"]});
    refused(json!({}), &[mixed], ":1: `completion` is a list of messages: `prompt` and `completion`");
    refused(json!({}), &[row, json!({"prompt": [], "completion": "a"})], ":2: `completion` is not a list");
}

#[test]
fn columns_and_templates_that_do_not_fit_are_named() {
    let columns = json!({"columns": {"prompt": "task", "answer": "result"}});
    let row = json!({"task": "a", "result": "b"});
    refused(
        columns.clone(),
        &[json!({"tasks": "a", "result": "b"})],
        ":1: has no column `task`, which task.columns.prompt names: it has `tasks`, `result`",
    );
    refused(columns.clone(), &[row.clone(), json!({"task": "a"})], ":2: has no column `result`");
    refused(columns, &[json!({"task": "a", "result": 7})], ":1: `result` is not a string: task.prompt and");
    let system = json!({"columns": {"prompt": "task", "answer": "result", "system": "role"}});
    refused(system, std::slice::from_ref(&row), "which task.columns.system names");
    let made = |answer: &str| json!({"prompt": "{{task}}", "answer": answer});
    refused(
        made("a\n{{results}}"),
        std::slice::from_ref(&row),
        ":1: does not fit task.answer: 'results' is undefined (template line 2); the row has `task`, `result`",
    );
    refused(
        made("{{ result.x }}"),
        std::slice::from_ref(&row),
        "does not fit task.answer: 'str object' has no attribute 'x'",
    );
    refused(
        made("{{ result }}"),
        &[json!({"task": "a", "result": null})],
        "does not fit task.answer: a value to print is null",
    );
    refused(
        made("{{ nothing | default('') }}"),
        std::slice::from_ref(&row),
        ":1: gives an empty answer by task.answer",
    );
    let endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}";
    refused(made(endless), std::slice::from_ref(&row), "does not fit task.answer");
    refused(json!({"chat": true}), &[json!({"text": "a"})], ":1: is a text (`text`), and task.chat = true");
    refused(json!({"learn": "template"}), &[json!({"text": "a"})], ":1: is no conversation, and task.learn");
}

#[test]
fn ambiguous_and_incomplete_questions_are_refused() {
    let both = json!({"question": "a", "answer": "b", "input": "c", "output": "d"});
    refused(
        json!({}),
        &[both],
        ":1: has `question` and `answer`, and `input` and `output`: name the columns",
    );
    let choices = json!({"question": "a", "choices": ["b", "c"], "answer": "b"});
    let expected = ":1: has `choices` beside `question`: say in the recipe how they make a prompt, as task.prompt = \
                    \"{{choices}}\\n{{question}}\" with task.answer = \"{{answer}}\"";
    refused(json!({}), std::slice::from_ref(&choices), expected);
    let made = json!({"prompt": "{{question}} {{choices | join('/')}} ", "answer": "{{answer}}"});
    assert_eq!(learnt(&tokenizer("chatml"), made, choices).0, ["a b/c ⟦b<|im_end|>⟧"]);
}

#[test]
fn named_columns_hold_messages_and_texts() {
    let tokenizer = contents_only();
    let dialog = json!({"dialog": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "id": 1});
    let (rows, notices) = learnt(&tokenizer, json!({"columns": {"messages": "dialog"}}), dialog.clone());
    assert_eq!(rows, ["<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧"]);
    assert_eq!(notices, [], "what the recipe does not name is not wanted");
    let text = dialog["dialog"].to_string();
    let (as_text, notices) =
        learnt(&tokenizer, json!({"columns": {"messages": "dialog"}}), json!({"dialog": text}));
    assert_eq!((as_text, notices), (rows, vec![Notice::ListAsText("dialog".into())]));
    let (rows, _) = learnt(&tokenizer, json!({"columns": {"text": "body"}}), json!({"body": "ab"}));
    assert_eq!(rows.len(), 1);
}

#[test]
fn marks_decide_alone_where_the_recipe_says_so() {
    let turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")];
    let marked = tokenizer("inst");
    let by_default = learnt(&marked, json!({}), chat(&turns)).0;
    assert_eq!(learnt(&marked, json!({"learn": "template"}), chat(&turns)).0, by_default);
    assert_eq!(by_default[0].matches('⟦').count(), 2);
    assert_eq!(learnt(&marked, json!({"learn": "last"}), chat(&turns)).0[0].matches('⟦').count(), 1);
    let expected = ":1: is learnt by task.learn = \"template\", and the chat template marks nothing of it";
    refused(json!({"learn": "template"}), &[chat(&turns)], expected);
}

/// One that writes reasoning in the last answer only, and marks answers.
const MARKED_THINKING: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}\
    {% generation %}{% if loop.last and m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}\
    {{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

#[test]
fn answers_that_the_template_changes_are_learnt_in_rows_of_their_own() {
    let row = json!({"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "hm"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"},
        {"role": "user", "content": "e"}, {"role": "assistant", "content": "f", "reasoning_content": "so"}]});
    let user = |text: &str| format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n");
    let expected = [
        format!(
            "{}b<|im_end|>\n{}⟦d<|im_end|>⟧\n{}⟦<think>so</think>f<|im_end|>⟧",
            user("a"),
            user("c"),
            user("e")
        ),
        format!("{}⟦<think>hm</think>b<|im_end|>⟧", user("a")),
    ];
    let unmarked = MARKED_THINKING.replace("{% generation %}", "").replace("{% endgeneration %}", "");
    for template in [MARKED_THINKING, &unmarked] {
        let tokenizer =
            Tokenizer::from_folder(folder_with_template("chatml", Some(template)).path()).unwrap();
        let (rows, notices) = learnt(&tokenizer, json!({}), row.clone());
        assert_eq!(rows, expected);
        assert_eq!(notices, [Notice::Expanded]);
        assert_eq!(learnt(&tokenizer, json!({"learn": "last"}), row.clone()).0.len(), 1);
        // Rows of one record have its position.
        let dataset = load(&tokenizer, json!({}), &[chat(&[("user", "a"), ("assistant", "b")]), row.clone()]);
        let dataset = dataset.unwrap();
        assert_eq!(dataset.rows().iter().map(|row| row.position.number).collect::<Vec<_>>(), [1, 2, 2]);
    }
    // Where the template refuses what ends there, the answer is context, which is said.
    let refusing = format!(
        "{{{{ raise_exception('no') if messages | length == 2 and not add_generation_prompt }}}}{unmarked}"
    );
    let tokenizer = Tokenizer::from_folder(folder_with_template("chatml", Some(&refusing)).path()).unwrap();
    let mut changed = row;
    changed["messages"][1]["content"] = json!("<think>");
    let (rows, notices) = learnt(&tokenizer, json!({}), changed);
    assert_eq!((rows.len(), notices), (1, vec![Notice::ContextOnly]));
}

/// Whatever a field holds, a row is read or refused in one line.
#[test]
fn no_value_of_a_field_panics() {
    let tokenizer = contents_only();
    let values = json!([
        null, 7, true, "", "x", "[", "[{}]", [], [null], [7], ["a"], [[]], [["a"]], [["a", "b"]], {}, [{}],
        [{"from": 1, "value": 2}], [{"from": "gpt"}], [{"from": "function_call", "value": "x"}],
        [{"from": "function_call", "value": "[1]"}], [{"from": "gpt", "value": [{"type": "tool_call"}]}],
        [{"role": "assistant", "content": [{"type": "text", "value": 1}]}],
        [{"role": "assistant", "content": [{"type": "tool_call", "value": {"name": "f"}}]}],
        [{"role": "assistant", "tool_calls": [{}]}], [{"role": "function_call"}]
    ]);
    let forms = [
        json!({"prompt": "a", "completion": "b"}),
        json!({"messages": chat(&[("user", "a"), ("assistant", "b")])["messages"], "tools": [], "chat_template_kwargs": {}}),
        json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "", "tools": ""}),
        json!({"instruction": "a", "input": "b", "output": "c", "system": "d", "history": []}),
        json!({"question": "a", "answer": "b", "system": "c", "history": [], "tools": []}),
        json!({"text": "a", "label": "b"}),
        json!({"p": "a", "a": "b"}),
    ];
    for form in forms {
        let mut task = json!({});
        if form.get("p").is_some() {
            task = json!({"prompt": "{{ p }}", "answer": "{{ a.x or a }}"});
        }
        load(&tokenizer, task.clone(), std::slice::from_ref(&form)).unwrap();
        for field in form.as_object().unwrap().keys() {
            for value in values.as_array().unwrap() {
                let mut row = form.clone();
                row[field] = value.clone();
                let _ = load(&tokenizer, task.clone(), &[row]);
            }
        }
    }
}
