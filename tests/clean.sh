#!/usr/bin/env bash
# Removes the build, and the tests' own folder with image and copies. The test user stays.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

if have cargo; then (cd "$(dirname "$0")/.." && cargo clean); fi
if [ -d "$BAILEY_TEST_DIR" ]; then
    make_test_dir # it is ours
    remove_tree "$BAILEY_TEST_DIR"
fi
