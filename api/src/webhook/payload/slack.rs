//! Slack's incoming webhook: a line for the notification, blocks for the channel.

use serde_json::{Value, json};

use super::{Teller, description, link};
use crate::webhook::notice::Notice;

/// Characters that Slack takes in the text of one section.
const SECTION_CHARS_MAX: usize = 3_000;

pub(super) fn message(notice: &Notice, teller: Teller<'_>) -> Value {
    let (sign, word) = match (notice.state.as_str(), notice.severity.as_str()) {
        ("resolved", _) => (":white_check_mark:", "Resolved"),
        (_, "critical") => (":red_circle:", "Critical"),
        _ => (":large_orange_circle:", "Warning"),
    };
    let headline = format!("{sign} *{word}*: {}", escaped(&notice.summary));
    let script = format!("```{}```", escaped(&clipped(&notice.pxl, SECTION_CHARS_MAX / 2)));
    let mut blocks = vec![
        section(&headline),
        section(&escaped(&description(notice))),
        json!({"type": "context", "elements": [{
            "type": "mrkdwn",
            "text": format!("<{}|incident {}>", link(notice, teller), escaped(&notice.incident_id)),
        }]}),
    ];
    if !notice.pxl.is_empty() && !notice.is_resolved() {
        blocks.insert(2, section(&script));
    }
    json!({"text": format!("{word}: {}", escaped(&notice.summary)), "blocks": blocks})
}

fn section(text: &str) -> Value {
    let text = clipped(text, SECTION_CHARS_MAX);
    json!({"type": "section", "text": {"type": "mrkdwn", "text": text}})
}

fn clipped(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max - 1) {
        Some((end, _)) if text[end..].chars().count() > 1 => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

/// Slack reads `&`, `<` and `>` as its own.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{notice, shown};
    use super::*;
    use crate::webhook::payload::Format;

    #[test]
    fn slack_gets_a_headline_numbers_and_the_script() {
        expect_test::expect![[r#"
            {
              "text": "Critical: p99 latency of cart is 412 ms, 4.2× its usual 98 ms",
              "blocks": [
                {
                  "type": "section",
                  "text": {
                    "type": "mrkdwn",
                    "text": ":red_circle: *Critical*: p99 latency of cart is 412 ms, 4.2× its usual 98 ms"
                  }
                },
                {
                  "type": "section",
                  "text": {
                    "type": "mrkdwn",
                    "text": "latency_p99 of cart is 412.00 ms, expected 98.00 ms; score 0.9991; since 2025-11-21T10:14:20.5Z"
                  }
                },
                {
                  "type": "section",
                  "text": {
                    "type": "mrkdwn",
                    "text": "```import px\n```"
                  }
                },
                {
                  "type": "context",
                  "elements": [
                    {
                      "type": "mrkdwn",
                      "text": "<http://127.0.0.1:7117/#/incidents/01JC|incident 01JC>"
                    }
                  ]
                }
              ]
            }"#]].assert_eq(&shown(Format::Slack, &notice()));
    }

    #[test]
    fn text_is_clipped_to_what_slack_takes_and_its_signs_are_escaped() {
        assert_eq!(clipped("äöü", 3), "äöü");
        assert_eq!(clipped("äöüß", 3), "äö…");
        assert_eq!(escaped("<a> & b"), "&lt;a&gt; &amp; b");
    }
}
