//! Argus' simplified policy language, as `pap-admin list-policies` writes it.
//!
//! 1. Every `rule deny` is a ban. What its rule names must all fit.
//! 2. A `rule permit` bans nobody and is passed over, with a remark: Argus takes the first rule that fits, so a permit before a
//!    deny may let somebody pass there who is banned here.
//! 3. Bans hold for the whole node, whatever resource and action they stand in. Where those are not `.*`, a remark says so.
#![forbid(unsafe_code)]

use super::super::lines::{Faults, MOST_ENTRIES, Place, Wrong, number, shorten, too_many};
use super::super::name::{Dn, Name};
use super::ours::{group, vo};
use super::{Ban, Fault, Issuer, List, WHAT, Whom, all_of};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Without quotes.
    Word,
    Quoted,
    Open,
    Close,
    Equals,
}

#[derive(Debug, Clone)]
struct Token<'a> {
    kind: Kind,
    text: std::borrow::Cow<'a, str>,
    at: Place,
}

impl Token<'_> {
    fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }

    fn is_text(&self) -> bool {
        matches!(self.kind, Kind::Word | Kind::Quoted)
    }
}

pub(super) fn parse(text: &str) -> Result<List, Vec<Fault>> {
    let mut parser = Parser {
        tokens: Tokens { rest: text, line: 1, column: 1 },
        list: List::default(),
        faults: Faults::default(),
    };
    match parser.file() {
        Ok(()) => {}
        // Beyond a broken structure nothing can be told.
        Err(fault) => drop(parser.faults.push(fault)),
    }
    parser.faults.or(parser.list)
}

struct Tokens<'a> {
    rest: &'a str,
    line: u32,
    column: u32,
}

impl<'a> Tokens<'a> {
    fn advance(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        match taken.rfind('\n') {
            Some(last) => {
                self.line = self.line.saturating_add(number(taken.matches('\n').count()));
                self.column = number(taken.get(last..).map_or(0, |text| text.chars().count()));
            }
            None => self.column = self.column.saturating_add(number(taken.chars().count())),
        }
        self.rest = rest;
        taken
    }

    fn place(&self) -> Place {
        Place { line: self.line, column: self.column }
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, Fault> {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.advance(blank);
            if !self.rest.starts_with('#') {
                break;
            }
            self.advance(self.rest.find('\n').unwrap_or(self.rest.len()));
        }
        let at = self.place();
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        let sign = match first {
            '{' => Some(Kind::Open),
            '}' => Some(Kind::Close),
            '=' => Some(Kind::Equals),
            _ => None,
        };
        if let Some(kind) = sign {
            return Ok(Some(Token { kind, text: self.advance(1).into(), at }));
        }
        if first == '"' || first == '\'' {
            return self.quoted(first, at).map(Some);
        }
        let end =
            self.rest.find(|c: char| c.is_whitespace() || "{}=\"'#".contains(c)).unwrap_or(self.rest.len());
        // A group is also written without quotes, with the equal sign of its role: fqan = /vo/Role=x
        let end = if first == '/' {
            self.rest.find(|c: char| c.is_whitespace() || "{}\"'#".contains(c)).unwrap_or(self.rest.len())
        } else {
            end
        };
        Ok(Some(Token { kind: Kind::Word, text: self.advance(end).into(), at }))
    }

    /// A string in either kind of quotes. Argus takes the text between them as it stands: a backslash only keeps a quote from
    /// ending it, and belongs to the value, as in `CN=Doe\, John`.
    fn quoted(&mut self, quote: char, at: Place) -> Result<Token<'a>, Fault> {
        let mut chars = self.rest.char_indices().skip(1);
        let end = loop {
            match chars.next() {
                Some((index, c)) if c == quote => break index,
                Some((_, '\\')) => drop(chars.next()),
                Some((_, '\n')) | None => {
                    let wrong = Wrong::new(
                        "the quote is not closed in its line",
                        "close it, or write the file again",
                    );
                    return Err(at.fault(WHAT, wrong));
                }
                Some(_) => {}
            }
        };
        let taken = self.advance(end + 1);
        let inner = taken.get(1..end).unwrap_or_default();
        let text = if inner.contains(['"', '\'']) {
            inner.replace("\\\"", "\"").replace("\\'", "'").into()
        } else {
            inner.into()
        };
        Ok(Token { kind: Kind::Quoted, text, at })
    }
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    list: List,
    faults: Faults,
}

impl<'a> Parser<'a> {
    fn wrong(at: Place, found: &str, expected: &str) -> Fault {
        let wrong = Wrong::new(
            format!("found '{}', expected {expected}", shorten(found)),
            "see docs/bans.md for the shape: resource \".*\" { action \".*\" { rule deny { subject = \"…\" } } }",
        );
        at.fault(WHAT, wrong)
    }

    fn some(&mut self, expected: &str) -> Result<Token<'a>, Fault> {
        let place = self.tokens.place();
        self.tokens.next()?.ok_or_else(|| Self::wrong(place, "the end of the file", expected))
    }

    fn expect(&mut self, kind: Kind, expected: &str) -> Result<Token<'a>, Fault> {
        let token = self.some(expected)?;
        if token.kind == kind { Ok(token) } else { Err(Self::wrong(token.at, &token.text, expected)) }
    }

    fn text(&mut self, expected: &str) -> Result<Token<'a>, Fault> {
        let token = self.some(expected)?;
        if token.is_text() { Ok(token) } else { Err(Self::wrong(token.at, &token.text, expected)) }
    }

    fn file(&mut self) -> Result<(), Fault> {
        while let Some(token) = self.tokens.next()? {
            if token.is_word("resource") {
                self.resource()?;
                continue;
            }
            // pap-admin writes the PAP's name above its policies: "default (local):"
            let end = self.tokens.rest.find('\n').unwrap_or(self.tokens.rest.len());
            let line = self.tokens.rest.get(..end).unwrap_or_default().trim();
            if token.kind != Kind::Word || !line.starts_with('(') || !line.ends_with("):") {
                return Err(Self::wrong(token.at, &token.text, "resource"));
            }
            self.tokens.advance(end);
        }
        Ok(())
    }

    fn resource(&mut self) -> Result<(), Fault> {
        let name = self.text("the resource's name")?;
        self.expect(Kind::Open, "{")?;
        loop {
            let token = self.some("action, obligation, description or }")?;
            match &*token.text {
                "}" if token.kind == Kind::Close => return Ok(()),
                "private" if token.kind == Kind::Word => {}
                "action" if token.kind == Kind::Word => self.action(&name.text)?,
                "obligation" if token.kind == Kind::Word => self.obligation()?,
                "description" if token.kind == Kind::Word => drop(self.text("the description")?),
                _ => return Err(Self::wrong(token.at, &token.text, "action, obligation, description or }")),
            }
        }
    }

    fn action(&mut self, resource: &str) -> Result<(), Fault> {
        let name = self.text("the action's name")?;
        self.expect(Kind::Open, "{")?;
        let narrow = resource != ".*" || name.text != ".*";
        loop {
            let token = self.some("rule, obligation, description or }")?;
            match &*token.text {
                "}" if token.kind == Kind::Close => return Ok(()),
                "rule" if token.kind == Kind::Word => {
                    let denies = self.rule(token.at)?;
                    if narrow && denies {
                        let text = format!(
                            "the rule is for the resource {} and the action {}; here it holds for all that the node runs",
                            shorten(resource),
                            shorten(&name.text)
                        );
                        self.list.remark(token.at.line, text);
                    }
                }
                "obligation" if token.kind == Kind::Word => self.obligation()?,
                "description" if token.kind == Kind::Word => drop(self.text("the description")?),
                _ => return Err(Self::wrong(token.at, &token.text, "rule, obligation, description or }")),
            }
        }
    }

    fn obligation(&mut self) -> Result<(), Fault> {
        self.text("the obligation's id")?;
        self.expect(Kind::Open, "{")?;
        loop {
            let token = self.some("an attribute or }")?;
            match token.kind {
                Kind::Close => return Ok(()),
                Kind::Word | Kind::Quoted => {
                    self.expect(Kind::Equals, "=")?;
                    self.text("a value")?;
                }
                Kind::Open | Kind::Equals => {
                    return Err(Self::wrong(token.at, &token.text, "an attribute or }"));
                }
            }
        }
    }

    /// Whether it denies.
    fn rule(&mut self, at: Place) -> Result<bool, Fault> {
        let effect = self.some("deny or permit")?;
        let denies = effect.is_word("deny");
        if !denies && !effect.is_word("permit") {
            return Err(Self::wrong(effect.at, &effect.text, "deny or permit"));
        }
        self.expect(Kind::Open, "{")?;
        let mut all = Vec::new();
        let mut broken = false;
        let mut count = 0;
        loop {
            let token = self.some("an attribute or }")?;
            if token.kind == Kind::Close {
                break;
            }
            if !token.is_text() {
                return Err(Self::wrong(token.at, &token.text, "an attribute or }"));
            }
            self.expect(Kind::Equals, "=")?;
            let value = self.text("a value")?;
            count += 1;
            if !denies {
                continue;
            }
            match whom(&token.text, &value.text) {
                Ok(whom) => all.push(whom),
                Err(wrong) => {
                    broken = true;
                    // The structure is sound: other rules can be looked at.
                    if self.faults.push(value.at.fault(WHAT, wrong)) {
                        self.tokens.rest = "";
                        return Ok(false);
                    }
                }
            }
        }
        if count == 0 {
            let wrong =
                Wrong::new("the rule names nobody", "name a subject, subject-issuer, vo, fqan or pfqan");
            return Err(at.fault(WHAT, wrong));
        }
        if !denies {
            self.list.remark(
                at.line,
                "a permit rule is passed over: this list only bans, also those whom Argus would let pass here first".to_owned(),
            );
            return Ok(false);
        }
        if self.list.bans.len() >= MOST_ENTRIES {
            return Err(too_many(at.line, WHAT));
        }
        if !broken {
            let whom = all_of(all).map_err(|wrong| at.fault(WHAT, wrong))?;
            self.list.bans.push(Ban::new(whom, at.line));
        }
        Ok(true)
    }
}

fn whom(attribute: &str, value: &str) -> Result<Whom, Wrong> {
    match attribute {
        "subject" => Dn::parse(value).map(|dn| Whom::Name(Name::Dn(dn))),
        "subject-issuer" => Dn::parse(value).map(|dn| Whom::Issuer(Issuer::Ca(dn))),
        "vo" => vo(value).map(Whom::Vo),
        "fqan" => group(value).map(Whom::Group),
        "pfqan" => group(value).map(Whom::PrimaryGroup),
        other => Err(Wrong::new(
            format!("the attribute '{}' is not known", shorten(other)),
            "name a subject, subject-issuer, vo, fqan or pfqan",
        )),
    }
}
