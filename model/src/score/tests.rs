use super::*;

/// What a score makes of pairs of reference and answer; `letters` are those of the options.
fn check(score: &str, letters: &str, rows: &[(&str, &str, bool)]) {
    let scoring: Scoring = score.parse().unwrap();
    let letters: Vec<char> = letters.chars().collect();
    for (reference, answer, right) in rows {
        let verdict = scoring.judge(reference, answer, &letters).unwrap();
        assert_eq!(verdict.right, *right, "{score}: {reference:?} and {answer:?} gave {verdict:?}");
    }
}

#[test]
fn exact_is_the_text_but_for_white_space_around_it() {
    check(
        "exact",
        "",
        &[
            ("the answer", "the answer", true),
            (" the answer\n", "\tthe answer ", true),
            ("the answer", "The answer", false),
            ("the answer", "the answer.", false),
            ("the answer", "the  answer", false),
            ("the answer", "", false),
            ("18", "18.0", false),
            ("é", "e\u{301}", false),
            ("a\nb", "a\nb", true),
            ("a\nb", "a b", false),
            ("<think>x</think>4", "4", false),
            ("4", "<think>x</think>4", false),
            ("{\"a\":1}", "{\"a\": 1}", false),
            ("日本", "日本", true),
            ("A", "(A)", false),
            ("", " ", true),
        ],
    );
}

#[test]
fn contains_looks_for_whole_words() {
    check(
        "contains",
        "",
        &[
            ("Paris", "It is Paris, the capital of France.", true),
            ("Paris", "paris", true),
            ("Paris.", "It is PARIS!", true),
            ("Paris", "Parisian cafés", false),
            ("the  blue\nwhale", "I think The Blue Whale is it", true),
            ("the blue whale", "the whale, blue", false),
            ("18", "There are 18.", true),
            ("18", "There are 1800", false),
            ("18", "It costs 18.50", false),
            ("18", "1,18", false),
            ("1,800", "in all $1,800", true),
            ("cat", "concatenate", false),
            ("C++", "written in C++ today", true),
            ("C", "written in C++ today", true),
            ("\"yes\"", "Yes, of course", true),
            ("no", "nothing", false),
            ("東京", "答えは東京です", true),
            ("ÉCOLE", "l'école", true),
            ("4", "<think>it could be 4</think>It is 5", false),
            ("4", "could be 5</think> It is 4", true),
            ("4", "<think>it is 4, or", false),
            ("50%", "about 50% of them", true),
        ],
    );
}

#[test]
fn number_compares_values() {
    check(
        "number",
        "",
        &[
            ("18", "18.0", true),
            ("18", "\"18.00\"", true),
            ("1800", "$1,800", true),
            ("18", "The answer is 18.", true),
            ("3 * 6 = 18\n#### 18", "She has 9 + 9 = <<9+9=18>>18 eggs.", true),
            ("#### 18", "#### 18\n\nQuestion: 7 eggs?\n#### 7", true),
            ("#### 18", "The 3 hens lay 6 each. #### $18 in 2 days", true),
            ("#### 18", "####\n18", true),
            ("18", "18 or 19", false),
            ("-5", "−5", true),
            ("-5", "5", false),
            ("5", "10-5", true),
            ("3", "10 - 7 = 3", true),
            ("-5", "-$5.00", true),
            ("-5", "$-5", true),
            ("0.5", ".5", true),
            ("0.5", "1/2", true),
            ("1.5", "1 1/2 cups", true),
            ("1.5", "1½", true),
            ("0.75", "\\frac{3}{4}", true),
            ("2020", "on 1/2/2020", true),
            ("2/3", "0.6667", false),
            ("2/3", "4/6", true),
            ("50", "50 %", true),
            ("50%", "50", true),
            ("1234567", "1,234,567", true),
            ("1234567", "12,34,567", true),
            ("18000", "18{,}000", true),
            ("8000", "1,8000", true),
            ("1800", "1,800kg", true),
            ("0", "-0.00", true),
            ("1000", "1e3", true),
            ("12345678901234567890123", "12,345,678,901,234,567,890,123", true),
            ("12345678901234567890123", "12345678901234567890124", false),
            ("2", "the 2 of CO2", true),
            ("18", "\\boxed{18}", true),
            ("18", "18th", true),
            ("18", "eighteen", false),
            ("18", "", false),
            ("18", "<think>is it 17?</think>18", true),
            ("18", "<think>18", false),
            ("答案是18", "18元", true),
            ("7", "3, 5, 7", true),
            ("3", "3 / 0", false),
            ("0.1", "1/10", true),
        ],
    );
}

#[test]
fn choice_compares_letters() {
    check(
        "choice",
        "ABCD",
        &[
            ("B", "B", true),
            ("B", "b", true),
            ("B", "(B)", true),
            ("B", "B.", true),
            ("B", "B) Paris", true),
            ("B. Paris", "B", true),
            ("B", "**B**", true),
            ("B", "Answer: B", true),
            ("B", "The answer is (B).", true),
            ("B", "the correct answer is option b.", true),
            ("B", "The answer is $\\boxed{B}$", true),
            ("B", "B. Because A is wrong.", true),
            ("B", "A is wrong, so the answer is B", true),
            ("B", "A. is wrong. C. is wrong.\nAnswer: B", true),
            ("B", "The answer is B, not option C", true),
            ("B", "Answer: A? No. The answer is B", true),
            ("B", "B\n\nQuestion: next\nAnswer: C", true),
            ("B", "A good question. I think it is B", true),
            ("B", "答案是B", true),
            ("B", "选B", true),
            ("B", "Let me see: (A) no, (B) yes", true),
            ("A", "The answer is a matter of taste: B", false),
            ("B", "Bananas", false),
            ("B", "", false),
            ("B", "E", false),
            ("B", "<think>A</think>\n\nB", true),
            ("B", "A", false),
            ("C", "I'd say C", true),
            ("D", "`D`", true),
            ("D", "Answer - D", true),
        ],
    );
    check("choice", "", &[("G", "The answer is G", true), ("e", "(E)", true)]);
}

#[test]
fn a_pattern_compares_what_it_finds_first() {
    check(
        "regex:####\\s*(-?[0-9,]+)",
        "",
        &[
            ("x #### 18", "#### 18", true),
            ("x #### 18", "####18", true),
            ("x #### 18", "18", false),
            ("x #### 18", "#### 18.5", true),
            ("x #### 18", "#### 18\n#### 19", true),
            ("x #### 18", "#### 19\n#### 18", false),
            ("x #### 1,8", "#### 18", false),
            ("x #### -18", "#### 18", false),
            ("#### 18", "<think>#### 17</think>#### 18", true),
        ],
    );
    check("regex:(?i)yes|no", "", &[("yes", "yes", true), ("Yes", "well, yes", false), ("no", "none", true)]);
    check(
        "regex:(?:a=([0-9]+)|b=([0-9]+))",
        "",
        &[("a=1", "b=1", true), ("a=1", "b=2", false), ("a=1", "a=", false), ("b=22", "x b=22", true)],
    );
    check(
        "regex:(?s)<a>(.*?)</a>",
        "",
        &[("<a> x\n</a>", "..<a>x</a>", true), ("<a>x</a>", "<a>y</a>", false)],
    );
}

#[test]
fn json_compares_what_is_said() {
    check(
        "json",
        "",
        &[
            (r#"{"a":1,"b":[1,2]}"#, r#"{ "b": [1, 2], "a": 1 }"#, true),
            (r#"{"a":1}"#, r#"{"a":1.0}"#, true),
            (r#"{"a":1e2}"#, r#"{"a":100}"#, true),
            (r#"{"a":1}"#, "```json\n{\"a\": 1}\n```", true),
            (r#"{"a":1}"#, "Here it is:\n```\n{\"a\": 1}\n```\nDone.", true),
            (r#"{"a":1}"#, "Here it is: {\"a\": 1}", false),
            (r#"{"a":1}"#, r#"{"a":"1"}"#, false),
            (r#"{"a":1}"#, r#"{"a":1,"b":null}"#, false),
            ("[1,2]", "[2,1]", false),
            ("[1,2]", "[1,2,]", false),
            ("null", "null", true),
            ("\"é\"", r#""\u00e9""#, true),
            ("9007199254740993", "9007199254740992", false),
            ("0.1", "0.10", true),
            ("-0", "0", true),
            ("{}", "", false),
            ("{}", "[]", false),
            ("true", "<think>false</think>true", true),
            (r#"{"a":{"b":{"c":[{"d":1}]}}}"#, r#"{"a":{"b":{"c":[{"d":1.00}]}}}"#, true),
        ],
    );
    let deep = "[".repeat(100_000);
    check("json", "", &[("[]", deep.as_str(), false)]);
}

#[test]
fn a_reference_that_cannot_be_compared_with_is_an_error() {
    for (score, reference, says) in [
        ("number", "none at all", "has no number"),
        ("number", "<think>5</think>none", "has no number"),
        ("choice", "E", "does not say the letter of an option (A, B)"),
        ("regex:a+", "b", "does not match the pattern `a+`"),
        ("json", "{", "is not JSON"),
        ("contains", " … ", "has nothing that an answer could contain"),
    ] {
        let scoring: Scoring = score.parse().unwrap();
        let error = scoring.judge(reference, "5", &['A', 'B']).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn scores_are_read_as_they_are_written() {
    for text in ["exact", "contains", "number", "choice", "json", "regex:a (b|c)"] {
        let scoring: Scoring = text.parse().unwrap();
        assert_eq!(scoring.to_string(), text);
        assert_eq!(serde_json::to_string(&scoring).unwrap(), format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Scoring>(&format!("\"{text}\"")).unwrap(), scoring);
    }
    for (text, says) in [
        ("exakt", "exact, contains"),
        ("regex:", "no pattern"),
        ("regex:(", "unclosed group"),
        ("regex:(?:a{1000}){1000}", "is too large"),
        ("", "use one of"),
    ] {
        let error = text.parse::<Scoring>().unwrap_err();
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn the_options_of_a_prompt_are_its_last_list() {
    let letters = |prompt: &str| choices_in(prompt).iter().map(|choice| choice.letter).collect::<String>();
    assert_eq!(letters("Q?\nA. one\nB. two\nC. three\nAnswer:"), "ABC");
    assert_eq!(letters("Q?\n(A) one\n(B) two"), "AB");
    assert_eq!(letters("Q?\n a) one\n b) two"), "AB");
    assert_eq!(letters("- **A.** one\n- **B.** two"), "AB");
    assert_eq!(letters("A.one\nB? two\nC、three"), "ABC");
    assert_eq!(letters("Q1\nA. 1\nB. 2\nAnswer: A\n\nQ2\nA. 3\nB. 4\nC. 5\nAnswer:"), "ABC");
    assert_eq!(letters("Q: why?\nA: because\n\nQ: how?\nA:"), "");
    assert_eq!(letters("A. only one"), "");
    assert_eq!(letters("no options"), "");
    // In two columns, read line by line.
    assert_eq!(letters("Q?\nA. 1\nC. 3\nB. 2\nD. 4\nAnswer:"), "ABCD");
    assert_eq!(letters("A. 1\nD. 4\nB. 2\nE. 5\nC. 3\nF. 6"), "ABCDEF");
    let texts = |prompt: &str| choices_in(prompt).into_iter().map(|choice| choice.text).collect::<String>();
    assert_eq!(texts("A. 1\nC. 3\nB. 2\nD. 4"), "1234");
    // Of a list that lacks a letter nobody knows the options.
    assert_eq!(letters("A. 1\nB. 2\nMr.C.X is 3\nD. 4"), "");
    assert_eq!(letters("A. 1\nC. 3"), "");
    assert_eq!(letters("A. 1\nC. 3\n\nA. 4\nB. 5"), "AB");
    assert_eq!(letters("A. 1\nB. 2\nX. Smith says so."), "AB");
    assert_eq!(letters("B. 1\nC. 2"), "");
    assert_eq!(letters("C. Smith says:\nA. 1\nB. 2"), "AB");
    assert_eq!(choices_in("A. one \nB: the other")[1], Choice { letter: 'B', text: "the other".to_owned() });

    let options = choices_in("A. one\nB. two");
    let replaced = |reference: &str| {
        let (range, _) = letter_in(reference, &['A', 'B']).unwrap();
        with_choice(reference, &range, &options[1], &options[0])
    };
    assert_eq!(replaced(" B"), " A");
    assert_eq!(replaced("b"), "a");
    assert_eq!(replaced("The answer is (B)."), "The answer is (A).");
    assert_eq!(replaced("B. two\n"), "A. one\n");
}
