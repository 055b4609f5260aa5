# Sums up a log of .ci/run: "N passed, N failed, N skipped". `status` is how the run ended.

# A test that finds out while it runs that it cannot (tests/support) prints its name and is counted as passed by the
# harness. One that says so twice is one test.
/test skipped: / {
    sub(/.*test skipped: /, "")
    sub(/: .*/, "")
    if (!($0 in named)) early++
    named[$0] = 1
}

# A step of .ci/run that cannot be done on this machine.
/^ci: skipped: / { skipped++ }

# The next program of tests; the one before it may have ended without a result.
/^ +(Running|Doc-tests) / { early = 0; split("", named) }

/^test result: / {
    for (i = 1; i < NF; i++) {
        if ($(i + 1) ~ /^passed/) passed += $i - early
        if ($(i + 1) ~ /^failed/) failed += $i
        if ($(i + 1) ~ /^ignored/) skipped += $i + early
    }
    early = 0
    split("", named)
}

END {
    # A step that is no test, or that did not get as far as its tests, counts as one.
    if (status != 0 && failed == 0) failed = 1
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
}
