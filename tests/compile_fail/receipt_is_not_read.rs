// A receipt is never read back from text. (By the trait's method: the message about a bound lists the types of the day.)
use bailey::audit::Receipt;
use serde::Deserialize;

fn read(text: &str) -> serde_json::Result<Receipt> {
    Receipt::deserialize(&mut serde_json::Deserializer::from_str(text))
}

fn main() {}
