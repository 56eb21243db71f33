//! Against transformers, at the limits, and with broken templates.

use serde_json::{Value, json};

use super::{ADD_GENERATION_PROMPT, Error, Part, Rendered, Template};
use crate::control_tokens::{ControlToken, ControlTokens};

fn render(source: &str, context: &Value) -> Result<Rendered, Error> {
    let context = context.as_object().unwrap();
    let messages = context.get("messages").and_then(Value::as_array).map(Vec::as_slice);
    let others = context.iter().filter(|(name, value)| *name != "messages" || !value.is_array());
    let others: Vec<(&str, &Value)> = others.map(|(name, value)| (name.as_str(), value)).collect();
    let template = Template::parse(source)?;
    let (rendered, _) = template.render(&others, messages, &[])?;
    if let Some(messages) = messages {
        assert_beginnings(source, &template, &others, messages);
    }
    Ok(rendered)
}

/// What rendering the whole tells of its beginnings is what these are by themselves.
fn assert_beginnings(source: &str, template: &Template, context: &[(&str, &Value)], messages: &[Value]) {
    let counts = 0..=messages.len();
    let parts = |count| [false, true].map(|add_generation_prompt| Part { count, add_generation_prompt });
    let wanted: Vec<Part> = counts.flat_map(parts).collect();
    let render = |messages: &[Value], add_generation_prompt: bool, wanted: &[Part]| {
        let flag = Value::Bool(add_generation_prompt);
        let mut context = context.to_vec();
        context.push((ADD_GENERATION_PROMPT, &flag));
        template.render(&context, Some(messages), wanted)
    };
    let Ok((whole, beginnings)) = render(messages, false, &wanted) else { return };
    assert_eq!(render(messages, false, &[]).unwrap().0, whole, "{source}");
    for beginning in beginnings {
        let Part { count, add_generation_prompt } = beginning.part;
        let (alone, _) = render(&messages[..count], add_generation_prompt, &[]).unwrap();
        let text = [&whole.text[..beginning.shared], &beginning.rest].concat();
        assert_eq!(text, alone.text, "{source}: {:?}", beginning.part);
    }
}

/// Messages that a template looks at one after another, and what it may not have looked at.
#[test]
fn beginnings_are_told_where_the_template_has_not_looked_further() {
    let messages: Vec<Value> = ["system", "user", "assistant", "user", "tool"]
        .map(|role| json!({"role": role, "content": role}))
        .into();
    let made = |source: &str| {
        render(source, &json!({"messages": messages})).unwrap();
        let parts = (0..5).flat_map(|count| {
            [false, true].map(|add_generation_prompt| Part { count, add_generation_prompt })
        });
        let wanted: Vec<Part> = parts.collect();
        let flag = Value::Bool(false);
        let context = [(ADD_GENERATION_PROMPT, &flag)];
        let template = Template::parse(source).unwrap();
        let (_, beginnings) = template.render(&context, Some(&messages), &wanted).unwrap();
        let name =
            |part: Part| format!("{}{}", part.count, if part.add_generation_prompt { "p" } else { "" });
        beginnings.into_iter().map(|beginning| name(beginning.part)).collect::<Vec<_>>().join(" ")
    };
    let all = "1 1p 2 2p 3 3p 4 4p";
    let end = "{% if add_generation_prompt %}<a>{% endif %}";
    for (start, body, told) in [
        ("", "{{ m.role }}", all),
        (
            "{{ messages[0].content }}",
            "{{ loop.index }}{% if not loop.first %}{{ loop.previtem.role }}{% endif %}",
            all,
        ),
        (
            "{% set ns = namespace(n=0) %}",
            "{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ messages[loop.index0].role }}",
            all,
        ),
        ("{% set x = messages %}", "{{ m.role }}", all),
        ("{{ messages[3].role }}", "{{ m.role }}", "4 4p"),
        ("", "{% if loop.last %}.{% endif %}", "2 2p 3 3p 4 4p"),
        ("", "{% if m.role == 'user' and loop.last %}.{% endif %}", "1 1p 3 3p 4 4p"),
        ("", "{% if m.role == 'user' %}{{ loop.nextitem.role }}{% endif %}", "1 1p 3 3p"),
        ("{{ messages | length }}", "{{ m.role }}", ""),
        ("{{ messages[-1].role }}", "{{ m.role }}", ""),
        ("{{ messages }}", "{{ m.role }}", ""),
        ("{% set x = [messages] %}", "{{ m.role }}", ""),
        ("{% set x = messages | map(attribute='role') %}", "{{ m.role }}", ""),
        ("{% set x = cycler(1, 2) %}", "{{ m.role }}{{ x.next() }}", ""),
        ("{% if add_generation_prompt is defined %}{% endif %}", "{{ m.role }}", all),
        ("{% set add_generation_prompt = false %}", "{{ m.role }}", "1 2 3 4"),
        ("{% if add_generation_prompt %}.{% endif %}", "{{ m.role }}", "1 2 3 4"),
    ] {
        let source =
            format!("{start}{{% for m in messages %}}{body}{{% endfor %}}{end}{{{{ messages[-1].role }}}}");
        assert_eq!(made(&source), told, "{source}");
    }
    let of_rest = "{% set system = messages[0] %}{% if system %}{% set rest = messages[1:] %}{% for m in rest %}{{ m.role }}\
                   {% else %}none{% endfor %}{% endif %}{{ rest | length }}";
    assert_eq!(made(of_rest), "2 2p 3 3p 4 4p");
    // A loop that is not the template's own ends in what is not known here.
    assert_eq!(made("{% set x %}{% for m in messages %}{{ m.role }}{% endfor %}{% endset %}{{ x }}"), "");
    // Nothing that follows the loop may be left of what ran for a beginning.
    let marks = "{% set ns = namespace(n=1) %}{% for m in messages %}{{ ns.n }}{% endfor %}{% set ns.n = 5 %}{{ ns.n }}\
                 {% set messages = [] %}{% macro f() %}{{ messages }}{% endmacro %}{{ f() }}";
    assert_eq!(made(marks), all);
}

fn text(source: &str) -> String {
    render(source, &json!({})).unwrap().text
}

fn refused(source: &str) -> String {
    render(source, &json!({})).unwrap_err().message
}

/// Made by `tests/golden/jinja/make.py`.
fn golden() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/jinja/templates.json")).unwrap()
}

#[test]
fn templates_render_as_transformers_does() {
    let golden = golden();
    for case in golden["cases"].as_array().unwrap() {
        let source = case[0].as_str().unwrap();
        let result = render(source, &golden["contexts"][case[1].as_str().unwrap()]);
        match (&result, case[2].as_str()) {
            (Ok(rendered), Some(text)) => {
                assert_eq!(rendered.text, text, "{source}");
                let ranges = case[3].as_array().cloned().unwrap_or_default();
                let made: Vec<Value> =
                    rendered.generation.iter().map(|range| json!([range.start, range.end])).collect();
                assert_eq!(made, ranges, "{source}");
            }
            (Err(_), None) => {}
            _ => panic!("{source}: {result:?} is not {}", case[2]),
        }
    }
}

fn hidden(value: &Value, controls: &ControlTokens) -> Value {
    match value {
        Value::String(text) => Value::String(controls.hide(text).into_owned()),
        Value::Array(items) => items.iter().map(|item| hidden(item, controls)).collect(),
        Value::Object(fields) => {
            let hide =
                |(key, value): (&String, _)| (controls.hide(key).into_owned(), hidden(value, controls));
            Value::Object(fields.iter().map(hide).collect())
        }
        other => other.clone(),
    }
}

/// Every character that is a control token of its own is hidden everywhere in the data; nothing but that may
/// be seen of it. What the templates themselves write comes back from aliases.
#[test]
fn hidden_text_renders_as_the_same_text() {
    let characters = "<>/abehikntAB1+'\"&é \n\t{}.,_|";
    let token =
        |(id, character): (u32, char)| ControlToken { text: character.into(), id, single_word: false };
    let controls =
        ControlTokens::new((0..).zip(characters.chars()).map(token).collect(), Vec::new()).unwrap();
    let golden = golden();
    for case in golden["cases"].as_array().unwrap() {
        let source = case[0].as_str().unwrap();
        let mut context = golden["contexts"][case[1].as_str().unwrap()].clone();
        for value in context.as_object_mut().unwrap().values_mut() {
            *value = hidden(value, &controls);
        }
        let text = render(source, &context).map(|rendered| rendered.text);
        let read = text.map(|text| controls.readable(&controls.to_aliases(&text)));
        assert_eq!(read.as_deref().ok(), case[2].as_str(), "{source}: {read:?}");
    }
}

#[test]
fn templates_cannot_make_reserved_characters() {
    for source in [
        "\n\u{10FFF0}5\u{10FFF1}",
        "\n{{ '\u{10FB3C}' }}",
        "\n{{ '\\U0010FFF0' }}",
        "\n{# \u{10FFF0} #}",
        "\n{{ '%c' % 0x10FFF0 }}",
        "\n{{ '{:c}'.format(0x10FB00) }}",
    ] {
        let error = render(source, &json!({})).unwrap_err();
        assert!(error.message.contains("the private-use character U+10F"), "{source:?}: {error}");
        assert!(error.message.contains("reserved here"), "{source:?}: {error}");
        assert_eq!(error.line, Some(2), "{source:?}");
    }
}

#[test]
fn errors_name_the_line_and_are_short() {
    let error = render("a\n{{ 1 }}\n{% if true %}\n{{ x.y }}{% endif %}", &json!({})).unwrap_err();
    assert_eq!((error.line, error.message.as_str()), (Some(4), "'x' is undefined"));
    let error = render("\n\n{{ 'a' | nope }}", &json!({})).unwrap_err();
    assert_eq!(error.to_string(), "No filter named 'nope'. (template line 3)");
    let error = render("{{ raise_exception(x * 1000) }}", &json!({"x": "long"})).unwrap_err();
    assert_eq!(error.message.chars().count(), 201);
    assert_eq!(render("{% include 'a' %}", &json!({})).unwrap_err().line, Some(1));
}

#[test]
fn what_differs_from_jinja_on_purpose_is_refused() {
    for (source, reason) in [
        ("{{ 'x' | random }}", "the same data must give the same text"),
        ("{{ lipsum() }}", "`lipsum` is not supported"),
        ("{{ [1] | map('string') }}", "Python prints its address"),
        ("{% for x in [1] recursive %}{% endfor %}", "recursive"),
        ("{{ 'a'.encode() }}", "str.encode is not supported"),
        ("{{ 'a' | wordwrap }}", "wordwrap and xmlattr are not supported"),
        ("{{ 'a' | pprint }}", "pprint"),
        ("{% set n = namespace() %}{% set n.a = n %}{{ n }}", "contains itself"),
        ("{{ 2 ** 127 }}", "at most 127 bits"),
        ("{{ 1.0.hex() }}", "the attribute 'hex' of numbers is not supported"),
        ("{{ 12[0:1] }}", "cannot be sliced"),
        ("{{ 5 | items | length }}", "item pairs from a mapping"),
        ("{{ '\\N{DASH}' }}", "`\\N`"),
        ("{% include 'a' %}", "include"),
    ] {
        let message = refused(source);
        assert!(message.contains(reason), "{source}: {message}");
    }
    assert_eq!(text("{{ strftime_now('%d %b %Y') }}"), "26 Jul 2024");
}

#[test]
fn deep_templates_are_refused_and_not_a_stack_overflow() {
    let repeated = |parts: [&str; 3], count: usize| {
        [&parts[0].repeat(count), parts[1], &parts[2].repeat(count)].concat()
    };
    for parts in [
        ["-", "1", ""],
        ["(", "1", ")"],
        ["[", "1", "]"],
        ["{1:", "1", "}"],
        ["not ", "1", ""],
        ["1 if 1 else ", "1", ""],
        ["1 + ", "1", ""],
        ["1 ** ", "1", ""],
        ["", "x", ".y"],
        ["", "x", "[0]"],
        ["", "x", "()"],
        ["", "x", "|upper"],
        ["f(", "1", ")"],
    ] {
        let source = format!("{{{{ {} }}}}", repeated(parts, 20_000));
        let message = refused(&source);
        assert!(message.contains("levels deep"), "{parts:?}: {message}");
    }
    let tests = format!("{{{{ x{} }}}}", " is defined".repeat(20_000));
    assert!(refused(&tests).contains("cannot chain multiple tests"));
    for [open, close] in [
        ["{% if 1 %}", "{% endif %}"],
        ["{% for x in y %}", "{% endfor %}"],
        ["{% macro m() %}", "{% endmacro %}"],
        ["{% filter upper %}", "{% endfilter %}"],
        ["{% generation %}", "{% endgeneration %}"],
        ["{% if 1 %}{% else %}", "{% endif %}"],
    ] {
        let message = refused(&repeated([open, "", close], 5000));
        assert!(message.contains("levels deep"), "{message}");
        let message = refused(&open.repeat(5000));
        assert!(message.contains("levels deep"), "{open}: {message}");
    }
    let message = refused(&format!("{{% set {}a{} = 1 %}}", "(".repeat(20_000), ")".repeat(20_000)));
    assert!(message.contains("levels deep"), "{message}");
    assert_eq!(text(&format!("{{% if 0 %}}{}{{% else %}}a{{% endif %}}", "{% elif 0 %}".repeat(5000))), "a");
    assert_eq!(text(&repeated(["{{ 1 and ", "1 }}", ""], 1).replace("1 and ", &"1 and ".repeat(5000))), "1");
    assert_eq!(text(&format!("{{{{ 1{} }}}}", " ~ 1".repeat(5000))).len(), 5001);
}

#[test]
fn endless_templates_are_stopped() {
    let nested = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    assert!(refused(nested).contains("too long"));
    assert!(refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").contains("too deeply"));
    assert!(refused("{% macro m() %}{% for x in [1] %}{% if 1 %}{{ [m()] ~ '' }}{% endif %}{% endfor %}{% endmacro %}{{ m() }}").contains("too deeply"));
    refused("{% macro m(n) %}{{ m(n) }}{{ caller() }}{% endmacro %}{% call m(1) %}{{ m(2) }}{% endcall %}");
    let shared =
        "{% set n = namespace(x=[1]) %}{% for i in range(100) %}{% set n.x = [n.x, n.x] %}{% endfor %}";
    let other = shared.replace("n.x", "n.y").replace("{% set n = namespace(x=[1]) %}", "{% set n.y = [1] %}");
    for last in
        ["{{ n.x }}", "{{ n.x | tojson }}", "{{ n.x == n.y }}", "{{ n.x < n.y }}", "{{ n.x | string }}"]
    {
        refused(&format!("{shared}{other}{last}"));
    }
}

#[test]
fn memory_is_limited() {
    for source in [
        "{{ 'a' * 1000000000000 }}",
        "{{ [1] * 1000000000000 }}",
        "{{ 'a' | center(1000000000000) }}",
        "{{ 'a'.center(1000000000000) }}",
        "{{ 'a'.ljust(1000000000000) }}",
        "{{ '1'.zfill(1000000000000) }}",
        "{{ '%1000000000000d' % 1 }}",
        "{{ '%.1000000000000f' % 1 }}",
        "{{ '%.1000000000000d' % 1 }}",
        "{{ '{:1000000000000}'.format(1) }}",
        "{{ '{:.1000000000000f}'.format(1.0) }}",
        "{{ '{:01000000000000,}'.format(1) }}",
        "{{ 'a\nb' | indent(1000000000000) }}",
        "{{ [1] | tojson(indent=1000000000000) }}",
        "{{ '\t'.expandtabs(1000000000000) }}",
        "{{ [1] | batch(1000000000000, 0) | list }}",
        "{{ [1] | slice(1000000000000) | list }}",
        "{{ ('a' * 10000).replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000).join('b' * 100000) }}",
        "{{ ('a' * 10000) | list | join('b' * 100000) }}",
        "{% set n = namespace(x='a') %}{% for i in range(100) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(100) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
        "{% for i in range(100000) %}{{ 'abcdefghijklmnopqrstuvwxyz' * 100 }}{% endfor %}",
    ] {
        let message = refused(source);
        assert!(message.contains("too much") || message.contains("too big"), "{source}: {message}");
    }
}

#[test]
fn values_of_any_depth_are_dropped() {
    refused("{% set n = namespace(x=[]) %}{% for i in range(100000) %}{% set n.x = [n.x] %}{% endfor %}");
    for step in [
        "{% set n.x = namespace(p=n.x) %}",
        "{% set m = namespace(p=n.x) %}{% macro f() %}{{ m }}{% endmacro %}{% set n.x = f %}",
    ] {
        text(&format!("{{% set n = namespace(x=1) %}}{{% for i in range(50000) %}}{step}{{% endfor %}}"));
    }
    for step in [
        "{% set n.x = loop %}{% for y in [n.x] %}{% set n.x = loop %}{% endfor %}",
        "{% set n.x = cycler(n.x) %}",
        "{% set n.x = [n.x] | map('list') %}",
        "{% set n.x = {'a': n.x}.items %}",
    ] {
        let source =
            format!("{{% set n = namespace(x=1) %}}{{% for i in range(50000) %}}{step}{{% endfor %}}");
        let _ = render(&source, &json!({}));
    }
    let mut deep = json!(1);
    for _ in 0..300 {
        deep = json!([deep]);
    }
    assert!(render("{{ x }}", &json!({"x": deep})).unwrap_err().message.contains("levels deep"));
    // What the template does not read is not looked at.
    assert_eq!(render("a", &json!({"x": deep})).unwrap().text, "a");
}

#[test]
fn a_long_message_renders() {
    let long = "a b".repeat(10_000_000);
    let source = "{% for m in messages %}{{ '<' + m.content | trim + '>' }}{% if 'x' in m.content %}y{% endif %}{% endfor %}";
    let rendered = render(source, &json!({"messages": [{"content": long}]})).unwrap();
    assert_eq!(rendered.text.len(), 30_000_002);
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound.max(1)
    }
}

#[test]
fn broken_templates_never_panic() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    let sources: Vec<Vec<char>> =
        cases.iter().map(|case| case[0].as_str().unwrap().chars().collect()).collect();
    let context = &golden["contexts"]["data"];
    let mut numbers = Numbers(12);
    for _ in 0..8000 {
        let mut source = sources[numbers.below(sources.len())].clone();
        for _ in 0..=numbers.below(4) {
            let other = &sources[numbers.below(sources.len())];
            let at = numbers.below(source.len() + 1);
            match numbers.below(4) {
                0 => source.truncate(at),
                1 => source.insert(at, other[numbers.below(other.len())..].first().copied().unwrap_or('{')),
                2 => {
                    let end = (at + numbers.below(6)).min(source.len());
                    source.drain(at..end);
                }
                _ => {
                    let start = numbers.below(other.len() + 1);
                    let end = (start + numbers.below(12)).min(other.len());
                    source.splice(at..at, other[start..end].iter().copied());
                }
            }
        }
        let source: String = source.into_iter().collect();
        let _ = render(&source, context);
    }
}
