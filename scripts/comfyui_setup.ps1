# Finds a Python (3.10 or newer) and runs comfyui_setup.py with it. All flags are that script's: --help lists them.
$ErrorActionPreference = 'Stop'

$script = Join-Path $PSScriptRoot 'comfyui_setup.py'
$candidates = @(@('py', '-3'), @('python'), @('python3'))
foreach ($candidate in $candidates) {
    $program = $candidate[0]
    $before = @($candidate | Select-Object -Skip 1)
    if (-not (Get-Command $program -ErrorAction SilentlyContinue)) { continue }
    try {
        & $program @before -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>$null
    }
    catch { continue }
    if ($LASTEXITCODE -ne 0) { continue }
    & $program @before $script @args
    exit $LASTEXITCODE
}

Write-Output '{"status": "error", "code": "python_missing", "message": "no Python 3.10 or newer was found", "hint": "install it with: winget install Python.Python.3.12, then run this again", "retryable": false}'
exit 1
