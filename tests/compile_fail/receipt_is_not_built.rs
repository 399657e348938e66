// A receipt is not put together by hand...
use bailey::audit::Receipt;

fn literal(other: Receipt) -> Receipt {
    Receipt { ..other }
}

fn main() {}
