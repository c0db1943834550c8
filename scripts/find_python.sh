# Defines find_python VERSION, which prints an interpreter such as that of 3.12, or returns 1 if there is none.
# usage: . scripts/find_python.sh     The search includes the versions that pyenv has installed.
find_python() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        if "$candidate" -c "import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}
