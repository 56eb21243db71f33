//! Conversations: ids against transformers, what is learnt of them, and what their owner is told.

use cpift_model::Tokenizer;
use cpift_model::data::{Dataset, Notice};
use cpift_tests::data::{DataFile, chat, folder_with_template};
use serde_json::{Value, json};

const THINK_OPENED: &str = "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c %}\
    {% set c = c.split('</think>')[-1].lstrip() %}{% endif %}{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}";
const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn load(template: &str, row: Value) -> (Tokenizer, Dataset) {
    let folder = folder_with_template("chatml", Some(template));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let dataset = DataFile::rows(&[row]).load(&tokenizer).unwrap();
    (tokenizer, dataset)
}

/// What is learnt, between brackets, from the last user's message on; and the notices.
fn learnt(template: &str, row: Value) -> (String, Vec<Notice>) {
    let (tokenizer, dataset) = load(template, row);
    let text = dataset.masked_sample(0, &tokenizer).unwrap();
    (text, dataset.notices().iter().map(|notice| notice.notice.clone()).collect())
}

fn ends(text: &str, end: &str) {
    assert!(text.ends_with(end), "{text:?} does not end with {end:?}");
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

// Golden values: golden/conversations.py.
#[test]
fn every_family_of_templates_gives_the_ids_of_transformers() {
    let path = cpift_tests::folders::tests().join("golden/conversations.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let answers = ["the answer\n\nmakes 7", "nobody counts é"];
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let (tokenizer, dataset) =
            load(case["template"].as_str().unwrap(), json!({"messages": case["messages"]}));
        let row = &dataset.rows()[0];
        let (whole, prompt) = (ids(&case["whole"]), ids(&case["prompt"]));
        let common = row.tokens.len().min(whole.len());
        // A template that ends no turn has EOS behind it.
        let appended = usize::from(matches!(name, "gemma" | "spoken"));
        assert_eq!(row.tokens[..common - appended], whole[..common - appended], "{name}");
        if name == "marked" {
            let mask: Vec<bool> = ids(&case["mask"]).into_iter().map(|flag| flag == 1).collect();
            assert_eq!(row.supervised, mask[..row.supervised.len()], "{name}");
            assert!(!mask[row.supervised.len()..].contains(&true), "{name}");
        }
        assert_eq!(row.prompt(), prompt, "{name}");
        let mut parts = Vec::new();
        for (index, &id) in row.tokens.iter().enumerate() {
            if row.supervised[index] && (index == 0 || !row.supervised[index - 1]) {
                parts.push(Vec::new());
            }
            if row.supervised[index] {
                parts.last_mut().unwrap().push(id);
            }
        }
        let texts: Vec<String> = parts.iter().map(|part| tokenizer.decode(part)).collect();
        assert_eq!(texts.len(), 2, "{name}: {texts:?}");
        for (text, answer) in texts.iter().zip(answers) {
            assert!(text.contains(answer) && !text.contains("and then"), "{name}: {text:?}");
        }
    }
}

#[test]
fn reasoning_behind_a_prompt_that_opens_it_is_learnt_up_to_the_answer() {
    let inline = chat(&[("user", "w?"), ("assistant", "<think>\nhm\n</think>\n\nfive")]);
    let field = |name: &str| json!({"messages": [{"role": "user", "content": "w?"}, {"role": "assistant", "content": "five", name: "hm"}]});
    let rows = [inline, field("reasoning_content"), field("reasoning"), field("thinking")];
    for row in rows {
        let (text, _) = learnt(THINK_OPENED, row);
        ends(&text, "assistant\n<think>\n⟦hm\n</think>\n\nfive<|im_end|>⟧");
    }
    let (text, notices) = learnt(THINK_OPENED, chat(&[("user", "w?"), ("assistant", "five")]));
    ends(&text, "assistant\n<think>\n⟦\n</think>\n\nfive<|im_end|>⟧");
    assert_eq!(notices, [Notice::EmptyReasoning]);
}

#[test]
fn reasoning_that_a_template_cuts_is_learnt_or_said() {
    let cutting = THINK_OPENED.replace("<think>\\n", "");
    let cutting = cutting.replace("<think>\n", "");
    let thought = "<think>\nhm hm\n</think>\n\nfive";
    let (text, notices) = learnt(&cutting, chat(&[("user", "w?"), ("assistant", thought)]));
    ends(&text, "assistant\n⟦<think>\nhm hm\n</think>\n\nfive<|im_end|>⟧");
    assert_eq!(notices, [Notice::ReasoningRestored]);
    let turns = [("user", "w?"), ("assistant", thought), ("user", "x"), ("assistant", "six")];
    let (text, notices) = learnt(&cutting, chat(&turns));
    ends(
        &text,
        "assistant\nfive<|im_end|>\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n⟦six<|im_end|>⟧",
    );
    let (tokenizer, dataset) = load(&cutting, chat(&turns));
    ends(
        &dataset.masked_sample(1, &tokenizer).unwrap(),
        "assistant\n⟦<think>\nhm hm\n</think>\n\nfive<|im_end|>⟧",
    );
    assert_eq!(notices, [Notice::ReasoningRestored, Notice::Expanded]);
    // A template that knows no reasoning at all.
    let row = json!({"messages": [{"role": "user", "content": "w?"}, {"role": "assistant", "content": "five", "reasoning": "hm"}]});
    assert_eq!(learnt(CHATML, row).1, [Notice::ReasoningNotLearnt]);
}

#[test]
fn tools_choose_the_template_of_that_name() {
    let folder = folder_with_template("chatml", None);
    let path = folder.path().join("additional_chat_templates");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(
        path.join("tool_use.jinja"),
        CHATML.replace("<|im_start|>' + m.role", "<|im_start|>' + 'T' + m.role"),
    )
    .unwrap();
    let with_tools = json!({"messages": chat(&[("user", "w?"), ("assistant", "five")])["messages"], "tools": [{"name": "f"}]});
    let without = chat(&[("user", "w?"), ("assistant", "five")]);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let error = DataFile::rows(std::slice::from_ref(&without)).load(&tokenizer).unwrap_err().to_string();
    assert!(error.contains("needs the chat template `default`"), "{error}");
    std::fs::write(folder.path().join("chat_template.jinja"), CHATML).unwrap();
    let both = Tokenizer::from_folder(folder.path()).unwrap();
    assert_ne!(tokenizer.fingerprint(), both.fingerprint());
    let dataset = DataFile::rows(&[with_tools, without]).load(&both).unwrap();
    assert!(dataset.masked_sample(0, &both).unwrap().contains("Tuser"));
    assert!(!dataset.masked_sample(1, &both).unwrap().contains("Tuser"));
}

#[test]
fn turns_are_learnt_with_what_ends_them() {
    let turns = [("user", "a"), ("assistant", "five"), ("user", "b"), ("assistant", "six")];
    let several = CHATML.replace("<|im_end|>", "</turn>");
    ends(&learnt(&several, chat(&turns)).0, "assistant\n⟦six</turn><|im_end|>⟧");
    assert!(learnt(&several, chat(&turns)).0.contains("⟦five</turn>⟧\n"));
    // EOS once, behind the last turn.
    let once =
        CHATML.replace("<|im_end|>", "").replace("{% endif %}", "{% else %}{{ eos_token }}{% endif %}");
    let (text, notices) = learnt(&once, chat(&turns));
    assert!(text.contains("⟦five\n⟧") && text.ends_with("⟦six\n<|im_end|>⟧"), "{text:?}");
    assert_eq!(notices, []);
}

#[test]
fn answers_of_the_weight_zero_are_context() {
    let mut row = chat(&[("user", "a"), ("assistant", "five"), ("user", "b"), ("assistant", "six")]);
    row["messages"][1]["weight"] = json!(0);
    let (text, notices) = learnt(CHATML, row.clone());
    assert!(text.contains("\nfive<|im_end|>\n") && text.ends_with("⟦six<|im_end|>⟧"), "{text:?}");
    assert_eq!(notices, []);
    row["messages"][3]["weight"] = json!(0.0);
    let folder = folder_with_template("chatml", Some(CHATML));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let error = DataFile::rows(&[row]).load(&tokenizer).unwrap_err().to_string();
    assert!(error.contains("only answers of the weight 0"), "{error}");
}

#[test]
fn contents_in_parts_reach_templates_of_strings_and_of_lists() {
    let part = |text: &str| json!([{"type": "text", "text": text}]);
    let row = json!({"messages": [{"role": "user", "content": part("why?")}, {"role": "assistant", "content": part("five")}]});
    ends(&learnt(CHATML, row.clone()).0, "user\nwhy?<|im_end|>\n<|im_start|>assistant\n⟦five<|im_end|>⟧");
    let printing = CHATML.replace("+ m.content +", "~ m.content ~");
    ends(&learnt(&printing, row.clone()).0, "user\nwhy?<|im_end|>\n<|im_start|>assistant\n⟦five<|im_end|>⟧");
    let listing = CHATML.replace(
        "+ m.content + '<|im_end|>\n' }}",
        "}}{% for part in m.content %}[{{ part.text }}]{% endfor %}{{ '<|im_end|>\n' }}",
    );
    ends(&learnt(&listing, row).0, "user\n[why?]<|im_end|>\n<|im_start|>assistant\n⟦[five]<|im_end|>⟧");
}

#[test]
fn arguments_reach_templates_in_the_form_they_take() {
    let calling = CHATML.replace(
        "+ m.content +",
        "+ (m.content or '') }}{% for c in m.tool_calls or [] %}{{ c.function.name + ARGUMENTS }}{% endfor %}{{",
    );
    let row = |arguments: Value| {
        json!({"messages": [{"role": "user", "content": "w?"}, {"role": "assistant", "content": "so",
            "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]})
    };
    let (object, text) = (json!({"city": "Rome"}), json!("{\"city\": \"Rome\"}"));
    let as_json = calling.replace("ARGUMENTS", "(c.function.arguments | tojson)");
    let as_text = calling.replace("ARGUMENTS", "c.function.arguments");
    let expected = "assistant\n⟦sof{\"city\": \"Rome\"}<|im_end|>⟧";
    for (template, arguments, notices) in [
        (&as_json, &object, vec![]),
        (&as_json, &text, vec![Notice::ArgumentsAsObjects]),
        (&as_text, &text, vec![]),
        (&as_text, &object, vec![Notice::ArgumentsAsText]),
    ] {
        let (text, noticed) = learnt(template, row(arguments.clone()));
        ends(&text, expected);
        assert_eq!(noticed, notices, "{template}");
    }
}

#[test]
fn what_a_template_leaves_out_is_said() {
    let roles = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}");
    let row = chat(&[("system", "obey"), ("user", "a"), ("assistant", "five"), ("user", "thanks")]);
    let notices = learnt(&roles, row).1;
    assert_eq!(notices, [Notice::AfterLastAnswer, Notice::MessageLeftOut("system".into())]);
    let row = json!({"messages": chat(&[("user", "a"), ("assistant", "five"), ("assistant", "six")])["messages"], "tools": [{"name": "f"}]});
    assert_eq!(learnt(CHATML, row).1, [Notice::ConsecutiveAnswers, Notice::ToolsLeftOut]);
}

#[test]
fn variables_of_a_row_reach_the_template() {
    let template =
        CHATML.replace("{% for m in messages %}", "{{ mode }}{{ eos_token }}{% for m in messages %}");
    let mut row = chat(&[("user", "a"), ("assistant", "five")]);
    row["chat_template_kwargs"] = json!({"mode": "slow", "eos_token": "E"});
    let (text, notices) = learnt(&template, row.clone());
    assert!(text.starts_with("slowE<|im_start|>"), "{text}");
    assert_eq!(notices, []);
    row["chat_template_kwargs"] = json!({"messages": []});
    let folder = folder_with_template("chatml", Some(CHATML));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let error = DataFile::rows(&[row]).load(&tokenizer).unwrap_err().to_string();
    assert!(error.contains("`chat_template_kwargs` sets `messages`"), "{error}");
}

#[test]
fn messages_of_other_shapes_are_refused_by_name() {
    let folder = folder_with_template("chatml", Some(CHATML));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let user = json!({"role": "user", "content": "a"});
    for (message, expected) in [
        (json!({"from": "clown", "value": "b"}), "message 2 is from `clown`, which is none of human, gpt"),
        (json!({"role": "assistant", "content": [{"type": "image"}]}), "a part of the type `image`"),
        (
            json!({"role": "assistant", "content": "b", "function_call": {}}),
            "write it as one of `tool_calls`",
        ),
        (
            json!({"role": "assistant", "content": "b", "weight": 0.5}),
            "has a `weight` that is neither 0 nor 1",
        ),
    ] {
        let file = DataFile::rows(&[json!({"messages": [user, message]})]);
        let error = file.load(&tokenizer).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn roles_of_other_names_are_those_that_templates_know() {
    let expected = "user\na<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧";
    let (text, notices) = learnt(CHATML, chat(&[("human", "a"), ("gpt", "b")]));
    ends(&text, expected);
    let renamed = |from: &str, to: &str| Notice::RoleRenamed { from: from.to_owned(), to: to.to_owned() };
    assert_eq!(notices, [renamed("gpt", "assistant"), renamed("human", "user")]);
    let row = json!({"messages": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]});
    let (text, notices) = learnt(CHATML, row);
    ends(&text, expected);
    assert_eq!(notices, []);
}

#[test]
fn a_header_that_takes_the_white_space_of_the_answer_stays_in_the_prompt() {
    let folder = folder_with_template("chatml", Some(CHATML));
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
        token["rstrip"] = json!(true);
    }
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let path = folder.path().join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let end_of_header = "<|im_start|>";
    config["chat_template"] = json!(format!(
        "{{% for m in messages %}}{{{{ m.role + '{end_of_header}\n' + m.content + '<|im_end|>\n' }}}}{{% endfor %}}\
         {{% if add_generation_prompt %}}{{{{ 'assistant{end_of_header}\n' }}}}{{% endif %}}"
    ));
    config["added_tokens_decoder"] = Value::Null;
    std::fs::write(&path, config.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let row = chat(&[("user", "w?"), ("assistant", "\n  five")]);
    let text = DataFile::rows(&[row]).load(&tokenizer).unwrap().masked_sample(0, &tokenizer).unwrap();
    ends(&text, "assistant<|im_start|>⟦five<|im_end|>⟧");
}

#[test]
fn flags_of_messages_are_read_or_refused() {
    let folder = folder_with_template("chatml", Some(CHATML));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let mut row = chat(&[("user", "a"), ("assistant", "five"), ("user", "b"), ("assistant", "six")]);
    for (name, value) in [("train", json!(0)), ("loss", json!(0)), ("loss", json!(false))] {
        let mut row = row.clone();
        row["messages"][1][name] = value;
        let text = learnt(CHATML, row).0;
        assert!(text.contains("\nfive<|im_end|>\n"), "{text:?}");
    }
    row["messages"][1]["train"] = json!("false");
    let error = DataFile::rows(&[row]).load(&tokenizer).unwrap_err().to_string();
    assert!(error.contains("message 2 has a `train` that is neither 0 nor 1"), "{error}");
}

#[test]
fn keys_that_nothing_reads_are_said() {
    let mut row = chat(&[("user", "a"), ("assistant", "five")]);
    row["messages"][1]["mask"] = json!(true);
    row["chat_template_kwargs"] = json!({"enable_thinkin": false});
    let unread = |name: &str| Notice::UnreadField(name.to_owned());
    let notices = learnt(CHATML, row.clone()).1;
    assert_eq!(notices, [unread("chat_template_kwargs.enable_thinkin"), unread("messages.mask")]);
    let printing = CHATML.replace("m.content +", "(m | tojson) +");
    assert_eq!(learnt(&printing, row).1, [unread("chat_template_kwargs.enable_thinkin")]);
}

#[test]
fn no_tools_are_no_tools_left_out_and_a_template_is_not_repeated() {
    let mut row = chat(&[("user", "a"), ("assistant", "five")]);
    row["tools"] = json!([]);
    assert_eq!(learnt(CHATML, row.clone()).1, []);
    row["chat_template_kwargs"] = json!({"chat_template": CHATML});
    let folder = folder_with_template("chatml", Some(CHATML));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let error = DataFile::rows(&[row]).load(&tokenizer).unwrap_err().to_string();
    assert!(!error.contains("endfor"), "{error}");
}

#[test]
fn a_variable_that_names_a_special_token_is_the_token() {
    let template = CHATML.replace("{% for m in messages %}", "{{ eos_token }}{% for m in messages %}");
    let mut row = chat(&[("user", "a"), ("assistant", "five")]);
    let (tokenizer, without) = load(&template, row.clone());
    row["chat_template_kwargs"] = json!({"eos_token": "<|im_end|>"});
    assert_eq!(load(&template, row).1.rows()[0].tokens, without.rows()[0].tokens);
    assert!(tokenizer.stop_tokens().contains(&without.rows()[0].tokens[0]));
}
