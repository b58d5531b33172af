//! What keys mean.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a person wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Down(usize),
    Up(usize),
    First,
    Last,
    Open,
    Back,
    NextTab,
    PreviousTab,
    Replay,
    Edit,
    Copy,
    Search,
    Pause,
    Follow,
    Reveal,
    Routes,
    Help,
    Quit,
    /// A character of the search.
    Type(char),
    Erase,
    /// The search is complete.
    Accept,
}

/// What a key means; while a search is typed, most keys are text. `page` is the height of the list.
pub(super) fn command(key: KeyEvent, is_typing: bool, page: usize) -> Option<Command> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c' | 'd') => Some(Command::Quit),
            _ => None,
        };
    }
    if is_typing {
        return match key.code {
            KeyCode::Char(character) => Some(Command::Type(character)),
            KeyCode::Backspace => Some(Command::Erase),
            KeyCode::Enter => Some(Command::Accept),
            KeyCode::Esc => Some(Command::Back),
            _ => None,
        };
    }
    Some(match key.code {
        KeyCode::Down | KeyCode::Char('j') => Command::Down(1),
        KeyCode::Up | KeyCode::Char('k') => Command::Up(1),
        KeyCode::PageDown | KeyCode::Char(' ') => Command::Down(page),
        KeyCode::PageUp => Command::Up(page),
        KeyCode::Home | KeyCode::Char('g') => Command::First,
        KeyCode::End | KeyCode::Char('G') => Command::Last,
        KeyCode::Enter | KeyCode::Char('d') => Command::Open,
        KeyCode::Esc => Command::Back,
        KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => Command::NextTab,
        KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => Command::PreviousTab,
        KeyCode::Char('r') => Command::Replay,
        KeyCode::Char('e') => Command::Edit,
        KeyCode::Char('c') => Command::Copy,
        KeyCode::Char('/') => Command::Search,
        KeyCode::Char('p') => Command::Pause,
        KeyCode::Char('f') => Command::Follow,
        KeyCode::Char('s') => Command::Reveal,
        KeyCode::Char('i') => Command::Routes,
        KeyCode::Char('?') => Command::Help,
        KeyCode::Char('q') => Command::Quit,
        _ => return None,
    })
}

/// Every key and its meaning, for people.
pub(super) const HELP: [(&str, &str); 16] = [
    ("↑ ↓  j k", "move"),
    ("PgUp PgDn  space", "move by a page"),
    ("g G", "first, last"),
    ("Enter  d", "details of the event; again or Esc: back"),
    ("Tab  ← →", "request, response, attempts, curl"),
    ("r", "call the service again with the same request"),
    (
        "e",
        "change the request in $EDITOR, then call the service with it",
    ),
    ("c", "copy the request as a curl command"),
    (
        "/",
        "search: words, status:5xx, source: type: path: id: header: body:",
    ),
    ("p", "hold the list still; deliveries go on"),
    ("f", "follow the newest event"),
    ("s", "show or hide secrets in headers"),
    ("i", "show or hide the sources' URLs"),
    ("?", "this page"),
    ("q  ^C", "stop: what is in hand is finished first"),
    ("q q", "stop at once"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: KeyCode, modifiers: KeyModifiers, is_typing: bool, expected: Option<Command>) {
        let key = KeyEvent::new(code, modifiers);
        assert_eq!(command(key, is_typing, 10), expected, "{key:?} {is_typing}");
    }

    #[test]
    fn keys() {
        let none = KeyModifiers::NONE;
        check(KeyCode::Char('j'), none, false, Some(Command::Down(1)));
        check(KeyCode::PageUp, none, false, Some(Command::Up(10)));
        check(
            KeyCode::Char('G'),
            KeyModifiers::SHIFT,
            false,
            Some(Command::Last),
        );
        check(KeyCode::Char('q'), none, false, Some(Command::Quit));
        check(KeyCode::Char('x'), none, false, None);
        // While a search is typed they are text, but ^C still stops.
        check(KeyCode::Char('q'), none, true, Some(Command::Type('q')));
        check(KeyCode::Enter, none, true, Some(Command::Accept));
        check(
            KeyCode::Char('c'),
            KeyModifiers::CONTROL,
            true,
            Some(Command::Quit),
        );
        check(KeyCode::F(1), none, true, None);
    }
}
