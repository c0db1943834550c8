# Makes a virtual environment with kd_keras, once. The other scripts source this file from the top folder.
# usage: . scripts/environment.sh [EXTRA]     KD_VENV names another directory than .venv, PYTHON another interpreter
export KD_VENV="${KD_VENV:-$PWD/.venv}"
requested="$(cat setup.cfg pyproject.toml; echo "${1:-}")"
installed="$KD_VENV/kd_keras_${1:-plain}.txt"
if [ ! -f "$installed" ] || [ "$requested" != "$(cat "$installed")" ]; then
    echo "Installing kd_keras into $KD_VENV (a few minutes, once) ..."
    [ -x "$KD_VENV/bin/python" ] || "${PYTHON:-python3}" -m venv "$KD_VENV"
    # The pip that comes with Python 3.10 takes very long to find compatible versions; a new one finds them at once.
    "$KD_VENV/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
    "$KD_VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}"
    echo "$requested" > "$installed"
fi
. "$KD_VENV/bin/activate"
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"  # silences TensorFlow's notes about its start
