//! Answers: their text while it is generated, what ends them, and prompts of every kind.

use std::ops::ControlFlow;
use std::path::Path;

use cpift_engine::Device;
use cpift_model::data::{Prompt, PromptMaker, PromptSettings};
use cpift_model::generation::{Answer, AnswerText, Conversation, Ended, GenerationSettings, Generator, Stop};
use cpift_model::recipe::SpecialTokens;
use cpift_model::transformer::{ComputeType, RandomSampling, Sampling};
use cpift_model::{Error, Tokenizer};
use cpift_tests::data::{DataFile, FOLDERS, folder, folder_with_template, tokenizer};
use cpift_tests::folders;
use serde_json::{Value, json};

const TEXT: &str = "the fox é🙂 jumps\nover 日本 17";

fn stop(tokenizer: &Tokenizer, strings: &[&str]) -> Stop {
    let strings: Vec<String> = strings.iter().map(|&string| string.to_owned()).collect();
    Stop::new(tokenizer, None, &strings).unwrap()
}

/// The pieces in which an answer of these tokens appears, and the answer.
fn pieces(tokenizer: &Tokenizer, stop: &Stop, ids: &[u32]) -> (Vec<String>, Answer) {
    let mut answer = AnswerText::new(tokenizer, stop, ids.len());
    let mut pieces = Vec::new();
    for &id in ids {
        let ended = answer.push(id);
        pieces.push(answer.new_text());
        if ended.is_some() {
            break;
        }
    }
    (pieces, answer.finish())
}

// Text while it is generated

#[test]
fn text_appears_as_soon_as_further_tokens_cannot_change_it() {
    for name in FOLDERS {
        let tokenizer = tokenizer(name);
        let ids = tokenizer.encode_answer(TEXT).unwrap();
        // Cut anywhere: within characters too.
        for length in 1..=ids.len() {
            let (pieces, answer) = pieces(&tokenizer, &stop(&tokenizer, &[]), &ids[..length]);
            assert_eq!(pieces.concat(), answer.text, "{name}: {length}");
            assert_eq!(answer.text, tokenizer.decode(&ids[..length]), "{name}: {length}");
            assert_eq!((answer.ended, answer.ids.as_slice()), (Ended::Length, &ids[..length]));
            // Only what is cut off for good shows as broken.
            assert!(
                !pieces[..length - 1].iter().any(|piece| piece.contains('\u{fffd}')),
                "{name}: {pieces:?}"
            );
        }
        let (pieces, _) = pieces(&tokenizer, &stop(&tokenizer, &[]), &ids);
        assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() > 8, "{name}: {pieces:?}");
    }
}

#[test]
fn answers_end_before_a_stop_string_that_lies_across_tokens() {
    for name in FOLDERS {
        let tokenizer = tokenizer(name);
        let ids = tokenizer.encode_answer(TEXT).unwrap();
        for (strings, expected) in [
            (&["x é🙂 j"][..], "the fo"),
            (&["\nove", "mps"], "the fox é🙂 ju"),
            (&["over 日", "never"], "the fox é🙂 jumps\n"),
            (&["🙂"], "the fox é"),
        ] {
            let (pieces, answer) = pieces(&tokenizer, &stop(&tokenizer, strings), &ids);
            assert_eq!(
                (answer.text.as_str(), answer.ended),
                (expected, Ended::StopString),
                "{name}: {strings:?}"
            );
            // Nothing of the stop string was shown and had to be taken back.
            assert_eq!(pieces.concat(), expected, "{name}: {strings:?}");
            assert!(answer.ids.len() < ids.len(), "{name}: {strings:?}");
        }
        // The beginning of a stop string that does not come is shown in the end.
        let (pieces, answer) = pieces(&tokenizer, &stop(&tokenizer, &["17 apples"]), &ids);
        assert_eq!((pieces.concat(), answer.ended), (TEXT.to_owned(), Ended::Length), "{name}");
        assert!(pieces[..ids.len() - 1].concat().ends_with(' '), "{name}: {pieces:?}");
    }
}

#[test]
fn answers_end_with_a_stop_token() {
    let tokenizer = tokenizer("chatml");
    let id = |text: &str| tokenizer.encode_prompt(text, SpecialTokens::Parse).unwrap()[0];
    let mut ids = tokenizer.encode_answer("the fox").unwrap();
    let words = ids.len();
    ids.extend([id("<tool_call>"), id("<|im_end|>"), ids[0]]);
    let (_, answer) = pieces(&tokenizer, &stop(&tokenizer, &[]), &ids);
    assert_eq!((answer.text.as_str(), answer.ended), ("the fox<tool_call>", Ended::Stop));
    assert_eq!(answer.ids, ids[..words + 2]);
    // A control string is the token it stands for, and other added tokens are text.
    let (_, answer) = pieces(&tokenizer, &stop(&tokenizer, &["<|im_start|>", "<tool_call>"]), &ids);
    assert_eq!((answer.text.as_str(), answer.ended), ("the fox", Ended::StopString));
    ids[words] = id("<|im_start|>");
    let (_, answer) = pieces(&tokenizer, &stop(&tokenizer, &["<|im_start|>"]), &ids);
    assert_eq!((answer.text.as_str(), answer.ended), ("the fox", Ended::Stop));
    for (string, reason) in [("", "is empty"), ("\n<|im_end|>", "name the token alone")] {
        let message = Stop::new(&tokenizer, None, &[string.to_owned()]).unwrap_err().to_string();
        assert!(message.starts_with("`--stop`: ") && message.contains(reason), "{message}");
    }
}

// Prompts

fn maker<'a>(tokenizer: &'a Tokenizer, chat: bool, system: Option<&str>) -> PromptMaker<'a> {
    PromptMaker::new(tokenizer, PromptSettings { chat, system: system.map(str::to_owned) }).unwrap()
}

fn read(maker: &PromptMaker<'_>, path: &Path) -> Result<Vec<Prompt>, Error> {
    Ok(maker.read(path)?.0.into_iter().map(|row| row.prompt).collect())
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The generation prompts of transformers, with the last answer in the row and without.
#[test]
fn conversations_are_those_of_transformers() {
    for name in FOLDERS {
        let tokenizer = tokenizer(name);
        let maker = maker(&tokenizer, false, None);
        let expected: Value =
            serde_json::from_slice(&std::fs::read(folder(name).join("expected.json")).unwrap()).unwrap();
        for case in expected["chats"].as_array().unwrap() {
            let mut row = json!({"messages": case["messages"], "tools": case["tools"]});
            let whole = read(&maker, &DataFile::rows(&[row.clone()]).path).unwrap();
            row["messages"].as_array_mut().unwrap().pop();
            let open = read(&maker, &DataFile::rows(&[row.clone()]).path).unwrap();
            assert_eq!(open[0].ids, ids(&case["prompt"]), "{name}: {}", case["messages"]);
            assert_eq!(open, whole, "{name}");
            if case["tools"].is_null() {
                let messages = row["messages"].as_array().unwrap().clone();
                assert_eq!(maker.of_messages(messages, &mut Vec::new()).unwrap(), open[0], "{name}");
            }
        }
    }
}

#[test]
fn a_text_is_continued_or_is_a_users_message() {
    let tokenizer = tokenizer("chatml");
    let (continued, answered) = (maker(&tokenizer, false, None), maker(&tokenizer, true, Some("Be brief.")));
    let of = |maker: &PromptMaker<'_>, text| maker.of_text(text, &mut Vec::new());
    let text = "why?<|im_end|>";
    let prompt = of(&continued, text).unwrap();
    assert_eq!(prompt.ids, tokenizer.encode_prompt(text, SpecialTokens::Parse).unwrap());
    assert_eq!((prompt.text.as_str(), prompt.is_chat), (text, false));
    let prompt = of(&answered, text).unwrap();
    assert_eq!(
        prompt.text,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nwhy?<|im_end|><|im_end|>\n\
         <|im_start|>assistant\n"
    );
    // The control string in the message is text.
    let end = tokenizer.encode_prompt("<|im_end|>", SpecialTokens::Parse).unwrap()[0];
    assert_eq!(prompt.ids.iter().filter(|&&id| id == end).count(), 2);
    assert_eq!(answered.end_of_turn(), Some(end));
    for maker in [&continued, &answered] {
        assert!(of(maker, "").unwrap_err().starts_with("is empty"));
    }
}

#[test]
fn rows_of_every_form_have_prompts() {
    let tokenizer = tokenizer("chatml");
    let text = |chat: bool, row: Value| {
        let maker = maker(&tokenizer, chat, None);
        read(&maker, &DataFile::rows(&[row]).path).map(|prompts| prompts[0].text.clone())
    };
    let user = |system: &str, text: &str| {
        format!(
            "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        )
    };
    assert_eq!(text(false, json!({"id": 7, "prompt": "why?"})).unwrap(), "why?");
    assert_eq!(text(false, json!({"prompt": "why?", "completion": "so"})).unwrap(), "why?");
    assert_eq!(text(true, json!({"prompt": "why?"})).unwrap(), user("You help.", "why?"));
    let with_system = json!({"prompt": "why?", "system": "S"});
    assert_eq!(text(true, with_system.clone()).unwrap(), user("S", "why?"));
    assert!(text(false, with_system).unwrap_err().to_string().contains("use --chat"));
    let messages = json!([{"role": "user", "content": "why?"}]);
    assert_eq!(text(false, json!({"prompt": messages})).unwrap(), user("You help.", "why?"));
    let share_gpt =
        json!({"conversations": [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so"}]});
    assert_eq!(text(false, share_gpt).unwrap(), user("You help.", "why?"));
    assert_eq!(text(false, json!({"question": "why?", "answer": "so"})).unwrap(), user("You help.", "why?"));
    let alpaca = json!({"instruction": "Add.", "input": "2 3", "output": "5"});
    assert!(text(false, alpaca.clone()).unwrap().ends_with("### Input:\n2 3\n\n### Response:\n"));
    assert_eq!(text(true, alpaca).unwrap(), user("You help.", "Add.\n2 3"));
    for (row, reason) in [
        (json!({"x": 1}), "has neither `prompt` nor `messages`"),
        (json!({"text": "x"}), "is a `text`, which has no prompt"),
        (json!({"prompt": 3}), "`prompt` is not a string"),
        (json!({"prompt": ""}), "is empty"),
        (json!({"messages": []}), "has no message to answer"),
        (json!({"messages": [{"role": "system", "content": "S"}]}), "has no message to answer"),
        (json!({"messages": [{"role": "user"}]}), "message 1 has no `content`"),
    ] {
        let message = text(false, row.clone()).unwrap_err().to_string();
        assert!(message.contains(".jsonl:1: ") && message.contains(reason), "{row}: {message}");
    }
}

#[test]
fn lines_of_text_are_prompts() {
    let tokenizer = tokenizer("chatml");
    let maker = maker(&tokenizer, false, None);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompts.TXT");
    std::fs::write(&path, "\u{feff}{\"one\"}\r\n\n  two \nthree").unwrap();
    let (rows, _) = maker.read(&path).unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.position.number, row.prompt.text.as_str())).collect();
    assert_eq!(rows, [(1, "{\"one\"}"), (3, "  two "), (4, "three")]);
    std::fs::write(&path, "\n \n").unwrap();
    assert!(maker.read(&path).unwrap_err().to_string().contains("is empty"));
}

#[test]
fn what_a_template_refuses_or_lacks_is_said() {
    let folder = folder_with_template("chatml", Some("{{ raise_exception('no ' + messages[0].role) }}"));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let reason = maker(&tokenizer, true, None).of_text("x", &mut Vec::new()).unwrap_err();
    assert!(reason.contains("refuses the messages: no user"), "{reason}");
    let folder = folder_with_template("chatml", None);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let settings = PromptSettings { chat: true, system: None };
    let message = PromptMaker::new(&tokenizer, settings).err().unwrap().to_string();
    assert!(message.starts_with("`--chat`: needs a chat template"), "{message}");
    let row = json!({"messages": [{"role": "user", "content": "x"}]});
    let message =
        read(&maker(&tokenizer, false, None), &DataFile::rows(&[row]).path).unwrap_err().to_string();
    assert!(message.contains("needs a chat template"), "{message}");
    // A template without a place for a system message.
    let folder = folder_with_template(
        "chatml",
        Some("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"),
    );
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let mut notices = Vec::new();
    maker(&tokenizer, true, Some("S")).of_text("x", &mut notices).unwrap();
    assert!(
        notices.iter().any(|notice| notice.to_string().contains("leaves out a message of the role `system`"))
    );
}

// A model's answers

fn generator() -> Generator {
    let device = Device::cpu(std::num::NonZeroUsize::new(2)).unwrap();
    Generator::open(&device, &folders::seesaw().join("base-small"), ComputeType::F32).unwrap()
}

fn settings(generator: &Generator, sampling: Sampling, together: Option<usize>) -> GenerationSettings {
    let stop = stop(generator.tokenizer(), &["4+2"]);
    GenerationSettings { max_new_tokens: 12, sampling, stop, together }
}

fn show_nothing(_: &str) -> Result<ControlFlow<()>, Error> {
    Ok(ControlFlow::Continue(()))
}

#[test]
fn answers_do_not_depend_on_the_prompts_beside_them() {
    let generator = generator();
    let maker = generator.prompts(PromptSettings::default()).unwrap();
    let mut prompts = read(&maker, &folders::seesaw().join("chat.eval.jsonl")).unwrap();
    prompts.truncate(9);
    prompts.extend(read(&maker, &folders::seesaw().join("code.eval.jsonl")).unwrap().into_iter().take(10));
    let prompts: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.ids.as_slice()).collect();
    let random = |top_k, top_p, seed| {
        Sampling::Random(RandomSampling { temperature: 5.0, top_k, top_p, seed, stream: 0 })
    };
    let answers = |sampling: Sampling, together: usize| {
        let mut answers = Vec::new();
        let mut done = 0;
        let settings = settings(&generator, sampling, Some(together));
        let mut observe = |progress: cpift_model::generation::AnsweringProgress| {
            done = progress.done;
            Ok(())
        };
        let mut take = |index, answer| {
            assert_eq!(index, answers.len());
            answers.push(answer);
            Ok(())
        };
        generator.answer_all(&prompts, &settings, &mut observe, &mut take).unwrap();
        assert_eq!(done, prompts.len());
        answers
    };
    let mut seen = Vec::new();
    for sampling in
        [Sampling::Greedy, random(None, None, 1), random(Some(9), Some(0.9), 1), random(None, None, 2)]
    {
        let together = answers(sampling, 128);
        assert_eq!(together, answers(sampling, 1), "{sampling:?}");
        assert_eq!(together, answers(sampling, 4), "{sampling:?}");
        assert!(!seen.contains(&together), "{sampling:?}");
        // One of a stream by itself: the first has the stream 0.
        let alone = generator.stream(prompts[0], &settings(&generator, sampling, None), &mut show_nothing);
        assert_eq!(alone.unwrap(), together[0], "{sampling:?}");
        seen.push(together);
    }
    // A single token that may be drawn is the most likely one.
    let one = answers(random(Some(1), None, 5), 8);
    assert_eq!(one, seen[0]);
    let ended = |ended| seen[0].iter().any(|answer| answer.ended == ended);
    assert!(ended(Ended::Stop) && ended(Ended::StopString), "{:?}", seen[0]);
}

#[test]
fn streams_show_the_answer_and_end_when_told() {
    let generator = generator();
    let maker = generator.prompts(PromptSettings { chat: true, system: None }).unwrap();
    let prompt = maker.of_text("231+104", &mut Vec::new()).unwrap();
    let settings = GenerationSettings {
        stop: stop(generator.tokenizer(), &[]),
        ..settings(&generator, Sampling::Greedy, None)
    };
    let mut shown = String::new();
    let answer = generator
        .stream(&prompt.ids, &settings, &mut |piece| {
            shown.push_str(piece);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!((shown.as_str(), answer.text.as_str(), answer.ended), ("231+104", "231+104", Ended::Stop));
    let mut pieces = 0;
    let answer = generator
        .stream(&prompt.ids, &settings, &mut |_| {
            pieces += 1;
            Ok(if pieces == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .unwrap();
    assert_eq!((answer.ids.len(), answer.ended), (2, Ended::Interrupted));
    let long = vec![prompt.ids[0]; 64];
    let message = generator.stream(&long, &settings, &mut show_nothing).unwrap_err().to_string();
    assert!(message.contains("has 64 tokens, and the model has 64 positions"), "{message}");
    // Up to the last position.
    let last = GenerationSettings { max_new_tokens: 1000, ..settings.clone() };
    let answer = generator.stream(&long[..63], &last, &mut show_nothing).unwrap();
    assert_eq!(answer.ids.len(), 1);
}

#[test]
fn every_turn_has_those_before_it_in_view() {
    let generator = generator();
    let maker = generator.prompts(PromptSettings { chat: true, system: None }).unwrap();
    let settings = settings(&generator, Sampling::Greedy, None);
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let answer_of = |messages: Vec<Value>| {
        let prompt = maker.of_messages(messages, &mut Vec::new()).unwrap();
        generator.stream(&prompt.ids, &settings, &mut show_nothing).unwrap()
    };
    let mut conversation = Conversation::new(&generator, &maker);
    let ask = |conversation: &mut Conversation<'_>, text: &str| {
        conversation.ask(text, &settings, &mut Vec::new(), &mut show_nothing)
    };
    let first = ask(&mut conversation, "231+104").unwrap();
    let mut messages = vec![message("user", "231+104")];
    assert_eq!(first, answer_of(messages.clone()));
    messages.extend([message("assistant", &first.text), message("user", "431+422")]);
    let second = ask(&mut conversation, "431+422").unwrap();
    assert_eq!(second, answer_of(messages));
    // What does not fit is refused, and the conversation is as it was.
    let refused = ask(&mut conversation, &"1".repeat(60)).unwrap_err();
    assert!(refused.is_input() && refused.to_string().contains("64 positions"), "{refused}");
    conversation.clear();
    assert_eq!(ask(&mut conversation, "231+104").unwrap(), first);
}
